"""The selector follows a better policy when there is one, and else loses nothing to its floor."""

import random
from collections.abc import Sequence

import pytest

from tests.policies.replaying import Cache, Make, scanned
from tierd.core.keys import BlockKey
from tierd_policies.arc import Arc
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.fifo import Fifo
from tierd_policies.gdsf import Gdsf
from tierd_policies.lfu import Lfu
from tierd_policies.selector import Selector
from tierd_policies.session_aware import SessionAware

Chains = Sequence[Sequence[BlockKey]]


def sessions(count: int, turns: int, at_once: int, seed: int) -> Chains:
    """Agents that take turns at random, each adding some blocks to its chain."""
    source = random.Random(seed)
    shared = [BlockKey(b"shared%d" % place) for place in range(4)]
    live = [(number, list(shared), 0) for number in range(at_once)]
    started = at_once
    chains = []
    while live and started <= count:
        at = source.randrange(len(live))
        number, chain, turn = live[at]
        more = [BlockKey(b"%d.%d.%d" % (number, turn, n)) for n in range(source.randint(1, 4))]
        chains.append([*chain, *more])
        live[at] = (number, chains[-1], turn + 1)
        if turn + 1 == turns:
            live[at] = (started, list(shared), 0)
            started += 1
    return chains


def popular(requests: int, seed: int) -> Chains:
    """Single blocks, a few popular, with scans in between: where recency does badly."""
    return [[BlockKey(key.to_bytes(8, "little"))] for key in scanned(requests, 2000, seed)]


class NewestFirst(Gdsf):
    """Evicts what is certain to be used next."""

    def _place(self, key: BlockKey) -> None:
        self._leaves.place(key, -self._stamps[key])


def hits(make: Make, chains: Chains, capacity: int) -> int:
    cache = Cache(make(), capacity)
    return sum(cache.ask(chain) for chain in chains)


@pytest.mark.parametrize("capacity", [60, 150, 400])
def test_it_ends_at_most_a_tenth_of_a_point_below_chain_lru(capacity: int) -> None:
    chains = sessions(120, 12, at_once=12, seed=capacity)
    references = sum(map(len, chains))
    lost = hits(ChainLRU, chains, capacity) - hits(Selector, chains, capacity)
    assert lost <= references / 1000


def test_it_wins_a_good_part_of_what_the_best_policy_would() -> None:
    chains = popular(12_000, seed=5)
    floor, best = (hits(make, chains, 100) for make in (ChainLRU, Lfu))
    chosen = hits(lambda: Selector((ChainLRU, Fifo, Lfu)), chains, 100)
    assert best - floor > 300
    assert chosen - floor > (best - floor) / 3


@pytest.mark.parametrize("seed", range(3))
def test_whoever_is_followed_the_loss_is_bounded_at_every_moment(seed: int) -> None:
    """A selector once lost 0.65 points on 15,000 references of agents: its shadows were right on
    the whole, but not about a chain of a hundred blocks that came back at once.

    Here one is followed at random, and what it wants is the worst: the newest.
    """
    source = random.Random(seed)
    selector = Selector((ChainLRU, NewestFirst))
    real, floor = Cache(selector, 100), Cache(ChainLRU(), 100)
    asked = lost = worst = 0
    for chain in sessions(60, 12, at_once=9, seed=seed):
        selector.followed = source.randrange(2)
        asked += len(chain)
        lost += floor.ask(chain) - real.ask(chain)
        worst = max(worst, lost)
        assert lost <= asked / 2000
        assert lost <= selector.guard.lost_most <= asked / 2000
    assert worst > 0


def test_it_samples_where_there_is_much_and_still_wins() -> None:
    chains = popular(60_000, seed=6)
    sampled = Selector((ChainLRU, Lfu), shadow_blocks_max=64)
    floor, best = (hits(make, chains, 200) for make in (ChainLRU, Lfu))
    chosen = hits(lambda: sampled, chains, 200)
    assert chosen - floor > (best - floor) / 3


def test_what_it_is_told_reaches_the_policies_that_hear_it() -> None:
    selector = Selector((SessionAware, Arc, ChainLRU))
    over, idle = ([BlockKey(b"%s%d" % (name, at)) for at in range(3)] for name in (b"o", b"i"))
    for chain in (idle, over):
        selector.touch(chain)
    selector.note(over, ["user"], "session_ended")
    assert next(selector.victims()) == over[-1]
    selector.evicted(over[-1])
    selector.missed(over[-1:])
    selector.touch(over)
    selector.cool(idle)
    assert next(selector.victims()) == idle[-1]


def test_the_first_is_followed_until_another_has_proved_itself() -> None:
    selector = Selector((Fifo, Gdsf))
    fifo = Fifo()
    for chain in sessions(8, 3, at_once=4, seed=1):
        selector.touch(chain)
        fifo.touch(chain)
    assert list(selector.victims()) == list(fifo.victims())
