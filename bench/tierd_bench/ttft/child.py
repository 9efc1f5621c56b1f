"""An engine in a process of its own, driven by lines of JSON: what `engines.py` starts.

Runs in the engine's environment, so it imports nothing of the bench. One line in is one command,
one line out its answer; whatever else the engine prints goes to standard error.

    {"do": "start", "model": ..., "tokens_max": 8192, "connector": {...} or null}
    {"do": "ask", "tokens": [...], "answer_tokens": 8, "apart": ""}
    {"do": "forget", "connector_too": false}
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, Any

_SEQUENCES = 4
_FORGET_S = 30.0
_PAUSE_S = 0.002


class Engine:
    """One vLLM engine, its scheduler and its worker in this process."""

    def __init__(self, model: str, tokens_max: int, connector: dict[str, Any] | None) -> None:
        # Only this process has these.
        from transformers import AutoConfig
        from vllm import LLM, SamplingParams, __version__
        from vllm.config import KVTransferConfig

        self._params = SamplingParams
        self._version = __version__
        transfer = KVTransferConfig(**connector) if connector else None
        config = AutoConfig.from_pretrained(model).get_text_config()
        with _llvmlite_hidden():
            self._engine = LLM(
                model,
                kv_transfer_config=transfer,
                max_model_len=min(
                    tokens_max, getattr(config, "max_position_embeddings", tokens_max)
                ),
                max_num_seqs=_SEQUENCES,
                skip_tokenizer_init=True,
                # Compiling takes minutes on a CPU, and is the same for all.
                enforce_eager=True,
            ).llm_engine
        self._asked = 0

    def facts(self) -> dict[str, Any]:
        """Return what prompts have to keep to, and what this is."""
        config, ranks = self._engine.model_config, self._engine.vllm_config.parallel_config
        heads = config.get_num_layers(ranks) * config.get_num_kv_heads(ranks)
        return {
            "tokens_max": config.max_model_len,
            "vocabulary": config.get_vocab_size(),
            # Keys and values.
            "token_bytes": 2 * heads * config.get_head_size() * config.dtype.itemsize,
            "engine": f"vLLM {self._version}",
        }

    def ask(self, tokens: list[int], answer_tokens: int, apart: str) -> dict[str, Any]:
        """Answer a prompt, sharing KV only with those of the same `apart`.

        Units: seconds until the first token.
        """
        params = self._params(
            temperature=0.0,
            max_tokens=answer_tokens,
            min_tokens=answer_tokens,
            ignore_eos=True,
            logprobs=1,
            detokenize=False,
        )
        self._asked += 1
        first_s = 0.0
        prompt = {"prompt_token_ids": tokens, **({"cache_salt": apart} if apart else {})}
        start_s = time.perf_counter()
        self._engine.add_request(str(self._asked), prompt, params)
        while True:
            for output in self._engine.step():
                answer = output.outputs[0]
                if answer.token_ids and not first_s:
                    first_s = time.perf_counter() - start_s
                if output.finished:
                    logprobs = [
                        [token, place[token].logprob]
                        for token, place in zip(answer.token_ids, answer.logprobs, strict=True)
                    ]
                    return {
                        "first_s": first_s,
                        "reused_tokens": output.num_cached_tokens or 0,
                        "answer": logprobs,
                    }

    def forget(self, *, connector_too: bool) -> dict[str, Any]:
        """Empty the local prefix cache, once no block of it is still being saved."""
        until_s = time.monotonic() + _FORGET_S
        while time.monotonic() < until_s:
            self._engine.step()
            if self._engine.reset_prefix_cache(reset_connector=connector_too):
                return {}
            time.sleep(_PAUSE_S)
        return {"error": f"still used blocks of its cache after {_FORGET_S:.0f} s"}

    def close(self) -> None:
        """Give back what outlives a process, such as shared memory."""
        self._engine.engine_core.shutdown()


def main() -> None:
    """Do as the lines on standard input say, until they end."""
    with _answers() as answers:
        engine: Engine | None = None
        for line in sys.stdin:
            command = json.loads(line)
            do = command.pop("do")
            if do == "start":
                engine = Engine(**command)
                reply = engine.facts()
            else:
                assert engine is not None, "start comes first"
                reply = engine.ask(**command) if do == "ask" else engine.forget(**command)
            answers.write(json.dumps(reply) + "\n")
            answers.flush()
        if engine is not None:
            engine.close()
    # Some connectors' threads never end by themselves.
    os._exit(0)


@contextmanager
def _llvmlite_hidden() -> Iterator[None]:
    """Start vLLM 0.32 on CPU although numba is imported, as LMCache's connector does.

    vLLM looks through every attribute of every module, and one of llvmlite's answers to every
    name with a function.
    """
    name = "llvmlite.binding.ffi"
    with suppress(ImportError):
        import_module("numba")
    hidden = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if hidden is not None:
            sys.modules[name] = hidden


@contextmanager
def _answers() -> Iterator[IO[str]]:
    """Give standard output to the answers alone: engines print, too."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield answers


if __name__ == "__main__":
    main()
