"""Whatever is used, pinned, cooled or evicted, no policy proposes a block before its children.

A key is spelled as its path from the root. What a policy may know of the tree are the chains
it was given, so the model remembers which key each one followed when it was touched last.
"""

from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.policies.replaying import Cache, Make
from tierd.core.keys import BlockKey
from tierd.core.notes import AgentState, BlockClass
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.class_hazard import ClassHazard
from tierd_policies.registry import EVICTION
from tierd_policies.retention import Retention
from tierd_policies.session_aware import SessionAware

paths = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(bytes)
kinds = st.lists(st.sampled_from(("system", "user", "thinking", "unknown")), max_size=5)
states = st.sampled_from(("running", "tool_call", "turn_ended", "session_ended"))


def chain_to(path: bytes) -> list[BlockKey]:
    return [BlockKey(path[:depth]) for depth in range(1, len(path) + 1)]


class TreeMachine(RuleBasedStateMachine):
    make: Make

    def __init__(self) -> None:
        super().__init__()
        self.policy = self.make()
        self.followed: dict[BlockKey, BlockKey | None] = {}
        self.pinned: set[BlockKey] = set()

    @rule(path=paths, verb=st.sampled_from(("touch", "extend")))
    def use(self, path: bytes, verb: str) -> None:
        chain = [key for key in chain_to(path) if key not in self.pinned]
        if hasattr(self.policy, "missed"):
            self.policy.missed([key for key in chain if key not in self.followed])
        getattr(self.policy, verb, self.policy.touch)(chain)
        self.follow(chain)

    def follow(self, chain: Sequence[BlockKey]) -> None:
        self.followed.update(zip(chain, [None, *chain], strict=False))

    @rule(path=paths)
    def cool(self, path: bytes) -> None:
        """End a conversation: its client says from where on no other chain needs it."""
        chain = chain_to(path)
        others = [key for key in self.followed if key not in chain]
        shared = sum(any(other.startswith(key) for other in others) for key in chain)
        self.policy.cool(chain[shared:])

    @rule(path=paths, classes=kinds, state=states)
    def note(self, path: bytes, classes: list[BlockClass], state: AgentState) -> None:
        if hasattr(self.policy, "note"):
            self.policy.note(chain_to(path), classes, state)

    @rule(count=st.integers(1, 4), leased=paths)
    def evict(self, count: int, leased: bytes) -> None:
        spared = set(chain_to(leased))  # leases hold whole chains
        doomed = list(islice((k for k in self.policy.victims() if k not in spared), count))
        for key in doomed:
            getattr(self.policy, "evicted", self.policy.forget)(key)
            self.policy.forget(key)
            del self.followed[key]

    @rule(path=paths)
    def pin(self, path: bytes) -> None:
        for key in chain_to(path):
            self.policy.forget(key)
            self.followed.pop(key, None)
            self.pinned.add(key)

    @rule()
    def unpin(self) -> None:
        for key in sorted(self.pinned, key=len, reverse=True):
            if key in self.pinned:
                chain = chain_to(key)
                self.pinned.difference_update(chain)
                self.policy.touch(chain)
                self.follow(chain)

    @invariant()
    def proposes_all_that_is_tracked_once(self) -> None:
        order = list(self.policy.victims())
        assert len(order) == len(self.followed)
        assert set(order) == set(self.followed)

    @invariant()
    def proposes_children_first(self) -> None:
        rank = {key: place for place, key in enumerate(self.policy.victims())}
        for key, parent in self.followed.items():
            if parent in rank:
                assert rank[parent] > rank[key], (parent, key)

    @invariant()
    def looking_changes_nothing(self) -> None:
        assert list(islice(self.policy.victims(), 3)) == list(self.policy.victims())[:3]


def check_tree(make: Make, chosen: settings) -> None:
    machine = type("Machine", (TreeMachine,), {"make": staticmethod(make)})
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.parametrize("make", list(EVICTION.values()), ids=list(EVICTION))
def test_children_go_first(make: Make) -> None:
    check_tree(make, settings(max_examples=25, stateful_step_count=30, deadline=None))


@pytest.mark.parametrize("make", list(EVICTION.values()), ids=list(EVICTION))
def test_a_parent_that_was_away_is_a_parent_again(make: Make) -> None:
    """A pinned prefix is not tracked, and what continues it is used meanwhile."""
    policy = make()
    one, other = chain_to(b"aab"), chain_to(b"ac")
    for chain in (one, other):
        policy.touch(chain)
    for key in one[:2]:
        policy.forget(key)
    policy.touch(one[2:])
    policy.touch(one[:2])
    policy.touch(one)
    policy.touch(other)
    order = list(policy.victims())
    assert order.index(one[2]) < order.index(one[1]) < order.index(one[0])
    assert order.index(other[1]) < order.index(one[0])


@pytest.mark.parametrize("make", list(EVICTION.values()), ids=list(EVICTION))
def test_after_a_restart_the_coldest_go_first(make: Make) -> None:
    """Control then gives one long row: warmest first, but each key after its ancestors."""
    policy = make()
    row = [*chain_to(b"aab"), *chain_to(b"ac")[1:], *chain_to(b"bb")]
    policy.touch(row)
    assert list(policy.victims()) == row[::-1]
    policy.touch(chain_to(b"bb"))
    order = list(policy.victims())
    assert (
        order.index(BlockKey(b"aab")) < order.index(BlockKey(b"aa")) < order.index(BlockKey(b"a"))
    )
    assert order.index(BlockKey(b"bb")) < order.index(BlockKey(b"b"))


asks = st.lists(paths.map(chain_to), max_size=60)


def check_like_chain_lru(make: Make, chains: list[list[BlockKey]], capacity: int) -> None:
    ours, floor = Cache(make(), capacity), Cache(ChainLRU(), capacity)
    assert [ours.ask(chain) for chain in chains] == [floor.ask(chain) for chain in chains]
    assert ours.held == floor.held


@pytest.mark.parametrize("make", [ClassHazard, SessionAware, Retention])
@given(chains=asks, capacity=st.integers(1, 30))
def test_without_notes_it_is_chain_lru(
    make: Make, chains: list[list[BlockKey]], capacity: int
) -> None:
    check_like_chain_lru(make, chains, capacity)


def test_eviction_and_drop_may_meet() -> None:
    policy = EVICTION["lfu"]()
    policy.forget(BlockKey(b"unknown"))
    getattr(policy, "evicted", policy.forget)(BlockKey(b"unknown"))
    assert list(policy.victims()) == []
