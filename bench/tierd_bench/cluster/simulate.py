"""One run: agents, the cluster they ask, and what came of it. Everything follows from the seed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Final

from tierd_bench.cluster.assumptions import SPLIT_CHUNKS
from tierd_bench.cluster.caches import PrefixCache
from tierd_bench.cluster.decode import DecodeEngine
from tierd_bench.cluster.loop import Loop
from tierd_bench.cluster.models import Hardware, Model
from tierd_bench.cluster.parts import (
    Engine,
    Group,
    Node,
    Request,
    grouped,
    make_engines,
    make_nodes,
)
from tierd_bench.cluster.prefill import (
    AttentionBalance,
    PrefillGroup,
    pack_by_quota,
    pack_by_tokens,
    stream_layers,
    stream_nothing,
)
from tierd_bench.cluster.reading import Part, ReadQueue, balanced_share, chunked
from tierd_bench.cluster.resources import transfer
from tierd_bench.cluster.scheduler import (
    LOAD_CAP_S,
    READ_THRESHOLD_S,
    PaperScheduler,
    RoundRobin,
    Scheduler,
    Thresholds,
    unassign,
)
from tierd_bench.cluster.systems import Assigning, Loading, Side, System
from tierd_bench.cluster.workload import Dataset, Trajectory, agents

BLOCK_TOKENS: Final = 64
"""Tokens of a Full Block (section 1.2). Only whole blocks are stored; what is over is computed
anew in the next turn."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated. `arrivals_per_s` of 0 starts all agents at once (offline).

    `cache_bytes` is DRAM a node that caches KV, `store_bytes` what storage keeps in all (0: no
    cache, and no limit), `tool_s` the mean time an agent takes between its turns.
    """

    system: System
    model: Model
    dataset: Dataset
    prefill_nodes: int
    decode_nodes: int
    hardware: Hardware
    agents: int
    seed: int = 0
    arrivals_per_s: float = 0.0
    tool_s: float = 0.0
    cache_bytes: float = 0.0
    store_bytes: float = 0.0
    until_s: float = inf


@dataclass(slots=True)
class Outcome:
    """What a run left behind, to make figures of."""

    scenario: Scenario
    end_s: float = 0.0
    finished: list[Request] = field(default_factory=list)
    agents_done: int = 0
    traffic: list[dict[int, int]] = field(default_factory=list)
    attention: AttentionBalance = field(default_factory=AttentionBalance)
    recomputed_tokens: int = 0
    cached_tokens: int = 0
    unfinished: int = 0


def simulate(scenario: Scenario) -> Outcome:
    """Run a scenario to its end."""
    return _Cluster(scenario).run()


class _Cluster:
    """The engines of both kinds, wired so that each stage hands requests to the next."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._system = scenario.system
        self._model = scenario.model
        self._loop = Loop()
        self._rng = Random(scenario.seed)
        self._outcome = Outcome(scenario)
        self._plans: list[Trajectory] = agents(scenario.dataset, self._rng, scenario.agents)
        self._at_turn = [0] * scenario.agents
        self._in_flight = 0
        cache_tokens = int(scenario.cache_bytes / self._model.kv_bytes_per_token)
        self._store = PrefixCache(int(scenario.store_bytes / self._model.kv_bytes_per_token))
        self._prefill_nodes = self._nodes(scenario.prefill_nodes, cache_tokens)
        self._decode_nodes = self._nodes(scenario.decode_nodes, cache_tokens)
        prefill = make_engines(self._loop, scenario.hardware, self._prefill_nodes)
        decode = make_engines(self._loop, scenario.hardware, self._decode_nodes)
        self._whole = self._system.loading is Loading.WHOLE
        self._reads = self._read_queues([*prefill, *decode])
        self._prefill_of = self._prefill_groups(prefill)
        self._decode_of = {engine: self._decode_engine() for engine in decode}
        self._scheduler = self._make_scheduler(prefill, decode)
        self._turns_taken = 0

    def run(self) -> Outcome:
        """Let all agents go through their trajectories."""
        start = 0.0
        for agent in range(self._scenario.agents):
            if self._scenario.arrivals_per_s:
                start += self._rng.expovariate(self._scenario.arrivals_per_s)
            if start <= self._scenario.until_s:
                self._loop.at(start, self._ask, agent)
        self._loop.run(self._scenario.until_s)
        outcome = self._outcome
        outcome.end_s = self._loop.now
        outcome.unfinished = self._in_flight
        outcome.traffic = [node.traffic for node in (*self._prefill_nodes, *self._decode_nodes)]
        return outcome

    # Building

    def _nodes(self, count: int, cache_tokens: int) -> list[Node]:
        return make_nodes(self._loop, self._scenario.hardware, count, cache_tokens)

    def _read_queues(self, engines: list[Engine]) -> dict[Engine, ReadQueue]:
        """Return where each engine reads: into its GPU, or into the buffers of its node."""
        if self._whole:
            room = self._model.prefill_kv_tokens
            return {engine: self._read_queue(engine.node, room) for engine in engines}
        room = self._model.buffer_tokens * self._scenario.hardware.gpus
        of_nodes = {
            id(node): self._read_queue(node, room)
            for node in (*self._prefill_nodes, *self._decode_nodes)
        }
        return {engine: of_nodes[id(engine.node)] for engine in engines}

    def _read_queue(self, node: Node, room: int) -> ReadQueue:
        per_token = self._model.kv_bytes_per_token
        return ReadQueue(self._loop, node, room, per_token, self._read_done)

    def _prefill_groups(self, engines: list[Engine]) -> dict[Engine, PrefillGroup]:
        quota = self._system.assigning is Assigning.PAPER
        streams = not self._whole and self._system.side is not Side.NOWHERE
        found: dict[Engine, PrefillGroup] = {}
        for members in grouped(engines, self._group_engines() if self._model.lockstep else 1):
            group = PrefillGroup(
                self._loop,
                members,
                self._model,
                pack_by_quota if quota else pack_by_tokens,
                stream_layers if streams else stream_nothing,
                self._outcome.attention,
                self._prefill_done,
            )
            found |= dict.fromkeys(members, group)
        return found

    def _group_engines(self) -> int:
        return self._model.group_nodes * self._scenario.hardware.gpus

    def _decode_engine(self) -> DecodeEngine:
        free = self._system.side is Side.NOWHERE
        load = _load_at_once if free else self._load_over_nic
        return DecodeEngine(self._loop, self._model, self._on_loaded, self._finish, load)

    def _make_scheduler(self, prefill: list[Engine], decode: list[Engine]) -> Scheduler:
        if self._system.assigning is Assigning.ROUND_ROBIN:
            return RoundRobin(prefill, decode, self._place)
        size = self._group_engines()
        return PaperScheduler(
            self._loop,
            [Group(members) for members in grouped(prefill, size)],
            [Group(members) for members in grouped(decode, size)],
            self._thresholds(),
            lambda engine: self._decode_of[engine].free_tokens,
            self._place,
        )

    def _thresholds(self) -> Thresholds:
        """Profile alpha and beta on the workload's mean turn."""
        turns = [turn for plan in self._plans for turn in plan]
        seconds = sum(
            self._model.attention_s(turn.context, turn.append) + self._model.linear_s(turn.append)
            for turn in turns
        )
        tokens = sum(turn.context + turn.append for turn in turns)
        nic_tokens_per_s = self._scenario.hardware.storage_nic / self._model.kv_bytes_per_token
        processed_per_s = tokens / seconds if seconds else inf
        return Thresholds(READ_THRESHOLD_S * nic_tokens_per_s, LOAD_CAP_S * processed_per_s)

    # The way of a request, stage by stage

    def _ask(self, agent: int) -> None:
        turn = self._plans[agent][self._at_turn[agent]]
        hit = turn.context // BLOCK_TOKENS * BLOCK_TOKENS
        if self._scenario.store_bytes:
            hit = min(hit, self._store.held(agent))
            self._outcome.recomputed_tokens += turn.context - hit
        request = Request(agent, turn, hit, self._loop.now)
        request.left = request.prompt - hit
        self._in_flight += 1
        self._scheduler.submit(request)

    def _place(self, request: Request) -> None:
        """Read the request's KV, now that both engines are known (section 1.3 D)."""
        request.assigned = self._loop.now
        if self._system.side is Side.NOWHERE:
            request.hit_prefill = request.hit
            self._read_done(request)
            return
        to_prefill, to_decode = self._sides(request)
        chunks = SPLIT_CHUNKS if self._system.side is Side.BOTH_ENDS else 1
        parts = [
            Part(request, engine, self._reads[engine], chunked(tokens, chunks))
            for engine, tokens in ((request.pe, to_prefill), (request.de, to_decode))
            if tokens
        ]
        if not parts:
            self._read_done(request)
            return
        if self._system.side is Side.BOTH_ENDS and len(parts) == 2:
            parts[0].other, parts[1].other = parts[1], parts[0]
        request.parts = len(parts)
        for part in parts:
            part.queue.add(part)

    def _sides(self, request: Request) -> tuple[int, int]:
        """Return the tokens to read from storage on the prefill and on the decode side.

        What a node's own cache holds is not read: a side is as far off as its queue and what
        it would have to add to it.
        """
        hit = request.hit
        pe, de = request.pe.node, request.de.node
        cached_pe = min(hit, pe.cache.held(request.agent))
        cached_de = min(hit, de.cache.held(request.agent))
        match self._system.side:
            case Side.PREFILL:
                on_prefill = hit
            case Side.IN_TURN:
                self._turns_taken += 1
                on_prefill = hit if self._turns_taken % 2 else 0
            case Side.SHORTER_QUEUE:
                prefill_first = pe.queued - cached_pe <= de.queued - cached_de
                on_prefill = hit if prefill_first else 0
            case _:
                on_prefill = balanced_share(hit, pe.queued, de.queued)
        # A cache holds a beginning, which goes to the prefill side's share first.
        spared_pe = min(cached_pe, on_prefill)
        spared_de = min(cached_de, hit - on_prefill)
        request.hit_prefill += spared_pe
        request.hit_decode += spared_de
        self._reads[request.pe].hold(spared_pe)
        self._reads[request.de].hold(spared_de)
        self._outcome.cached_tokens += spared_pe + spared_de
        return on_prefill - spared_pe, hit - on_prefill - spared_de

    def _read_done(self, request: Request) -> None:
        request.read = self._loop.now
        if not self._whole or not request.hit:
            self._prefill_of[request.pe].add(request)
            return
        size = request.hit * self._model.kv_bytes_per_token
        pe = request.pe
        to_gpu = {pe.nic_out: size, pe.nic_in: size, pe.node.dram: size}
        transfer(to_gpu, self._prefill_of[pe].add, request)

    def _prefill_done(self, request: Request) -> None:
        request.prefilled = self._loop.now
        unassign(request, request.pe)
        if not self._whole:
            self._reads[request.pe].release(request.hit_prefill)
            self._decode_of[request.de].add(request)
            return
        size = request.prompt * self._model.kv_bytes_per_token
        pe, de = request.pe, request.de
        transfer(
            {pe.nic_out: size, de.nic_in: size, de.node.dram: size}, self._moved_whole, request
        )

    def _moved_whole(self, request: Request) -> None:
        self._reads[request.pe].release(request.hit_prefill)
        self._decode_of[request.de].add(request)

    def _load_over_nic(self, request: Request, loaded: Callable[[Request], None]) -> None:
        size = request.prompt * self._model.kv_bytes_per_token
        de = request.de
        to_gpu = {de.nic_out: size, de.nic_in: size, de.node.dram: size}
        transfer(to_gpu, loaded, request)

    def _on_loaded(self, request: Request) -> None:
        """The decode side's buffer is free again, now that the GPU has the KV."""
        self._reads[request.de].release(request.hit_decode)

    def _finish(self, request: Request) -> None:
        request.finished = self._loop.now
        unassign(request, request.de)
        self._in_flight -= 1
        self._outcome.finished.append(request)
        self._keep(request)
        agent = request.agent
        self._at_turn[agent] += 1
        if self._at_turn[agent] == len(self._plans[agent]):
            self._end(agent)
            return
        pause = self._rng.expovariate(1 / self._scenario.tool_s) if self._scenario.tool_s else 0.0
        self._loop.after(pause, self._ask, agent)

    def _keep(self, request: Request) -> None:
        """Persist what is new, and let caches have what passed them."""
        held = request.prompt + request.turn.generated
        node = request.de.node
        if self._system.side is not Side.NOWHERE:
            size = (held - request.hit) * self._model.kv_bytes_per_token
            transfer({node.storage_out: size, node.dram: size}, _nothing)
        self._store.put(request.agent, held)
        node.cache.put(request.agent, held)
        if request.hit_prefill:
            request.pe.node.cache.put(request.agent, request.prompt)

    def _end(self, agent: int) -> None:
        self._outcome.agents_done += 1
        self._store.drop(agent)
        for node in (*self._prefill_nodes, *self._decode_nodes):
            node.cache.drop(agent)


def _load_at_once(request: Request, loaded: Callable[[Request], None]) -> None:
    loaded(request)


def _nothing(_: object) -> None:
    """Nobody waits for what is persisted."""
