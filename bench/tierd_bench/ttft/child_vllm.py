"""vLLM as an engine in a process of its own."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from tierd_bench.ttft.child import serve

_SEQUENCES_MAX = 4
_FORGET_S = 30.0
_LOOK_S = 0.002


class VllmEngine:
    """One vLLM engine, its scheduler and its worker in this process.

    `connector` is vLLM's KV transfer configuration.
    """

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
                max_num_seqs=_SEQUENCES_MAX,
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
            "block_tokens": self._engine.vllm_config.cache_config.block_size,
            # Keys and values.
            "token_bytes": 2 * heads * config.get_head_size() * config.dtype.itemsize,
            "engine": f"vLLM {self._version}",
        }

    def ask(self, tokens: list[int], answer_tokens: int, salt: str) -> dict[str, Any]:
        """Answer a prompt, sharing KV only with prompts of the same `salt`."""
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
        prompt = {"prompt_token_ids": tokens, **({"cache_salt": salt} if salt else {})}
        start_s = time.perf_counter()
        self._engine.add_request(str(self._asked), prompt, params)
        while True:
            for output in self._engine.step():
                answer = output.outputs[0]
                if answer.token_ids and not first_s:
                    first_s = time.perf_counter() - start_s
                if output.finished:
                    logprobs = [
                        [token, known[token].logprob]
                        for token, known in zip(answer.token_ids, answer.logprobs, strict=True)
                    ]
                    return {
                        "first_s": first_s,
                        "reused_tokens": output.num_cached_tokens or 0,
                        "answer": logprobs,
                    }

    def forget(self) -> dict[str, Any]:
        """Empty the local prefix cache, once no block of it is still being saved."""
        return self._forget(reset_connector=False)

    def forget_connector_too(self) -> dict[str, Any]:
        """The same, and what the connector holds in memory."""
        return self._forget(reset_connector=True)

    def close(self) -> None:
        """Give back what outlives a process, such as shared memory."""
        self._engine.engine_core.shutdown()

    def _forget(self, **options: Any) -> dict[str, Any]:
        until_s = time.monotonic() + _FORGET_S
        while time.monotonic() < until_s:
            # Saves end in steps, and vLLM refuses while one is under way.
            self._engine.step()
            if self._engine.reset_prefix_cache(**options):
                return {}
            time.sleep(_LOOK_S)
        return {"error": f"still used blocks of its cache after {_FORGET_S:.0f} s"}


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


if __name__ == "__main__":
    serve(VllmEngine)
