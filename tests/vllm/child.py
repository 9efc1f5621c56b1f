"""vLLM engines that do what they are told, one JSON line after another.

    python -m tests.vllm.child

Run by the environment that has vLLM; `tests.vllm.engines` is the other end. To import vLLM takes
longer than to start an engine, so this process imports it once and then forks one process for
each engine. There the engine has no process of its own, so that a test can say when it takes a
step, and look at its scheduler.
"""

import json
import os
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from threading import Event
from typing import Any, Final

import msgspec
import zmq
from vllm import LLM, SamplingParams
from vllm.distributed.kv_events import KVEventBatch
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest

Answer = dict[str, Any]

_NEEDED: Final = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.engine.core",
    "vllm.model_executor.models.llama",
)
"""What vLLM imports when it makes an engine."""


class Child:
    def __init__(self, settings: dict[str, Any]) -> None:
        self._llm = LLM(**settings)
        self._engine = self._llm.llm_engine
        self._core = self._engine.engine_core.engine_core
        self._scheduler = self._core.scheduler
        self._outputs: dict[str, Any] = {}
        self._matches: list[tuple[str, int, int | None]] = []
        self._signal_at_match: tuple[int, int] | None = None
        self._local_tokens_max: int | None = None
        self._preempted = 0
        self._adapters: dict[str, int] = {}
        self._drafted = 0
        self._preadv = os.preadv
        self._events: Any = None
        self._decoder = msgspec.msgpack.Decoder(KVEventBatch)
        self._watch_matches()
        self._limit_local_hits()
        self._count_preemptions()
        self._count_drafts()

    def add(self, requests: Sequence[dict[str, Any]]) -> None:
        """Hand in requests, and compute nothing yet."""
        for request in requests:
            sampling = SamplingParams(
                temperature=0.0,
                max_tokens=request["max_tokens"],
                logprobs=3,
                ignore_eos=True,
                detokenize=False,
            )
            prompt = TokensPrompt(prompt_token_ids=request["prompt"])
            if request.get("salt"):
                prompt["cache_salt"] = request["salt"]
            adapter = self._adapter(request["adapter"], request["in_place"])
            self._engine.add_request(request["id"], prompt, sampling, lora_request=adapter)

    def step(self, count: int) -> int:
        """Take so many steps, and return how many requests are not finished."""
        for _ in range(count):
            for output in self._engine.step():
                if output.finished:
                    self._outputs[output.request_id] = output
        unfinished: int = self._engine.get_num_unfinished_requests()
        return unfinished

    def run(self) -> dict[str, Any]:
        """Finish all requests, and return what came of each since the last time.

        As a server's loop does, this goes on while a connector holds memory of finished ones.
        """
        while self._scheduler.has_requests():
            self.step(1)
        done, self._outputs = self._outputs, {}
        return {id: _result(output) for id, output in done.items()}

    def warm_up(self) -> None:
        """Take a first step, with nothing: without one vLLM's pipelines on CPUs do not work."""
        self._llm.collective_rpc("execute_dummy_batch")

    def abort(self, ids: Sequence[str]) -> None:
        self._engine.abort_request(list(ids))

    def forget(self) -> bool:
        """Empty the engine's own prefix cache."""
        return bool(self._llm.reset_prefix_cache())

    def local_tokens_max(self, tokens: int | None) -> None:
        """Have the engine's own prefix cache give no longer hits than this."""
        self._local_tokens_max = tokens

    def signal_at_match(self, pid: int, signal: int) -> None:
        """Send a signal when the connector has next said that it has something."""
        self._signal_at_match = (pid, signal)

    def slow_reads(self, seconds: float) -> None:
        """Have each read of a file, as the connector reads, take so much longer from now on."""
        os.preadv = _slowed(self._preadv, lambda *_: seconds)

    def slow_steps(self, seconds_per_token: float) -> None:
        """Have a step take so much longer for each token that it computes."""

        def added_s(output: Any, *_: Any) -> float:
            return float(output.total_num_scheduled_tokens * seconds_per_token)

        executor = self._core.model_executor
        executor.execute_model = _slowed(executor.execute_model, added_s)

    def drafted(self) -> int:
        """Return how many tokens were guessed and then checked, in all steps until now."""
        return self._drafted

    def told(self) -> Answer:
        """Return what was seen since the last time."""
        seen = {"matches": self._matches, "preempted": self._preempted}
        self._matches, self._preempted = [], 0
        return seen

    def listen(self, endpoint: str) -> None:
        """Subscribe to the events that this engine publishes at `endpoint`."""
        self._events = zmq.Context.instance().socket(zmq.SUB)
        self._events.connect(endpoint)
        self._events.subscribe(b"")

    def heard(self) -> list[Any]:
        """Return the events that came since the last time, as plain values."""
        events: list[Any] = []
        while self._events is not None and self._events.poll(100):
            _, _, batch = self._events.recv_multipart()
            events += msgspec.to_builtins(self._decoder.decode(batch).events)
        return events

    def layout(self) -> Answer:
        config = self._scheduler.kv_cache_config
        return {
            "blocks": config.num_blocks,
            "groups": [
                {
                    "spec": type(group.kv_cache_spec).__name__,
                    "block_tokens": group.kv_cache_spec.block_size,
                    "layers": list(group.layer_names),
                }
                for group in config.kv_cache_groups
            ],
        }

    def close(self) -> None:
        self._engine.engine_core.shutdown()

    def _adapter(self, path: str, in_place: bool) -> LoRARequest | None:
        """Return the adapter at `path`. All have one name: what they are must tell them apart."""
        if not path:
            return None
        number = self._adapters.setdefault(path, len(self._adapters) + 1)
        return LoRARequest("adapter", number, path, load_inplace=in_place)

    def _watch_matches(self) -> None:
        connector = self._scheduler.connector
        if connector is None:
            return
        ask = connector.get_num_new_matched_tokens

        def watched(request: Any, computed: int) -> tuple[int | None, bool]:
            found, later = ask(request, computed)
            # The engine has put a suffix of its own after the id that it was given.
            asked, _, _ = request.request_id.rpartition("-")
            self._matches.append((asked, computed, found))
            if found and self._signal_at_match:
                os.kill(*self._signal_at_match)
                self._signal_at_match = None
            return found, later

        connector.get_num_new_matched_tokens = watched

    def _limit_local_hits(self) -> None:
        coordinator = self._scheduler.kv_cache_manager.coordinator
        find = coordinator.find_longest_cache_hit

        def limited(hashes: Any, tokens: int, *args: Any, **kwargs: Any) -> Any:
            most = self._local_tokens_max
            return find(hashes, tokens if most is None else min(tokens, most), *args, **kwargs)

        coordinator.find_longest_cache_hit = limited

    def _count_preemptions(self) -> None:
        preempt = self._scheduler._preempt_request  # noqa: SLF001

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._preempted += 1
            return preempt(*args, **kwargs)

        self._scheduler._preempt_request = counted  # noqa: SLF001

    def _count_drafts(self) -> None:
        schedule = self._scheduler.schedule

        def counted(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            self._drafted += sum(map(len, output.scheduled_spec_decode_tokens.values()))
            return output

        self._scheduler.schedule = counted


def _slowed(act: Callable[..., Any], added_s: Callable[..., float]) -> Callable[..., Any]:
    """Return `act`, but each call waits before for as long as `added_s` says of its arguments."""

    def slowed(*args: Any, **kwargs: Any) -> Any:
        Event().wait(added_s(*args))
        return act(*args, **kwargs)

    return slowed


def _result(output: Any) -> Answer:
    made = output.outputs[0]
    return {
        "tokens": list(made.token_ids),
        "logprobs": [
            {str(token): entry.logprob for token, entry in step.items()} for step in made.logprobs
        ],
        "cached": output.num_cached_tokens,
        "finish": made.finish_reason,
    }


def main() -> None:
    """Fork an engine, or wait for the end of one, as often as is asked on descriptor 0."""
    for name in _NEEDED:
        import_module(name)
    asked = socket.socket(fileno=0)
    while message := socket.recv_fds(asked, 64, 2):
        what, descriptors, *_ = message
        if not what:
            return
        if descriptors:
            pid = os.fork()
            if not pid:
                asked.detach()
                _serve(*descriptors)
                return
            for descriptor in descriptors:
                os.close(descriptor)
            asked.send(b"%d" % pid)
        else:
            _, status = os.waitpid(int(what), 0)
            asked.send(b"%d" % os.waitstatus_to_exitcode(status))


def _serve(commands: int, log: int) -> None:
    """Be an engine until told to close it, or nobody is there to tell."""
    os.dup2(log, 1)
    os.dup2(log, 2)
    with socket.socket(fileno=commands) as channel, channel.makefile("rw") as lines:
        child = Child(json.loads(lines.readline()))
        lines.write('"ready"\n')
        lines.flush()
        for line in lines:
            name, arguments = json.loads(line)
            act: Callable[..., Any] = getattr(child, name)
            lines.write(json.dumps(act(**arguments)) + "\n")
            lines.flush()
            if name == "close":
                break


if __name__ == "__main__":
    main()
