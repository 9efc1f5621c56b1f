"""What a trace shows of its agents reaches the policies that listen, and no others."""

from collections.abc import Sequence

from tests.simulate.oracle import ignore
from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_bench.simulate.cache import run_policy
from tierd_bench.simulate.hints import STATES, states_after
from tierd_bench.simulate.references import References, references_of, without_hints
from tierd_bench.traces import Trace, TraceRequest
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.registry import eviction


def request(session: str, *blocks: int, gap_s: float = 0.0) -> TraceRequest:
    return TraceRequest(session, float(blocks[-1]), blocks, 1, gap_s)


TURNS = (
    request("a", 0, 1),
    request("a", 0, 1, 2, gap_s=0.5),
    request("b", 0, 3),
    request("a", 0, 1, 2, 4, gap_s=90.0),
    request("b", 0, 3, 5),
)


def references(requests: Sequence[TraceRequest]) -> References:
    return references_of(Trace("made", 16, tuple(requests)), 1, 0)


def test_the_next_request_tells_what_the_agent_did() -> None:
    states = [STATES[state] for state in states_after(TURNS)]
    assert states == ["tool_call", "turn_ended", "running", "session_ended", "session_ended"]


def test_requests_that_are_all_sessions_tell_nothing() -> None:
    assert not states_after([request(str(at), at) for at in range(5)]).any()


class Listens(ChainLRU):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, AgentState]] = []

    def note(
        self, chain: Sequence[BlockKey], classes: Sequence[BlockClass], state: AgentState
    ) -> None:
        self.heard.append((len(chain), state))


def test_policies_that_listen_are_told_of_what_is_held() -> None:
    policy = Listens()
    run_policy(references(TURNS), lambda: policy, 3, ignore)
    ended: AgentState = "session_ended"
    assert policy.heard == [(2, "tool_call"), (3, "turn_ended"), (3, ended), (3, ended)]


def test_without_hints_nobody_is_told() -> None:
    policy = Listens()
    run_policy(without_hints(references(TURNS)), lambda: policy, 3, ignore)
    assert policy.heard == []


def test_ended_sessions_make_room_for_those_that_go_on() -> None:
    # LRU keeps the ended session, used last, and evicts the one that comes back.
    requests = [
        request("stays", 0, 1),
        request("ends", 2, 3),
        request("ends", 2, 3, 4),
        request("new", 5, 6),
        request("stays", 0, 1, 7),
    ]
    made = references(requests)
    told = run_policy(made, eviction("session_aware"), 5, ignore)
    untold = run_policy(without_hints(made), eviction("session_aware"), 5, ignore)
    assert (int(told.hits[-1]), int(untold.hits[-1])) == (2, 0)
