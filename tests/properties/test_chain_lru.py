"""ChainLRU keeps the resident set reachable, whatever mix of use and eviction it sees.

A key is spelled as its path from the root, so a key's parent is itself less its last byte
and the oracle needs no tree.
"""

from collections import OrderedDict
from itertools import islice
from random import Random

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tierd.core.keys import BlockKey
from tierd_policies.chain_lru import ChainLRU

paths = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(bytes)


def chain_to(path: bytes) -> list[BlockKey]:
    return [BlockKey(path[:depth]) for depth in range(1, len(path) + 1)]


def test_a_large_order_is_that_of_one_ordered_dict() -> None:
    """More keys than are looked up at once, so that the order is kept in both of its places."""
    random = Random(0)
    keys = [BlockKey(random.randbytes(16)) for _ in range(20_000)]
    chains = [keys[first : first + 50] for first in range(0, len(keys), 50)]
    policy, model = ChainLRU(), OrderedDict[BlockKey, None]()
    for _ in range(2_000):
        chain = random.choice(chains)
        deed = random.choice(("touch", "touch", "touch", "cool", "evict"))
        if deed == "touch":
            policy.touch(chain)
            for key in reversed(chain):
                model[key] = None
                model.move_to_end(key)
        elif deed == "cool":
            policy.cool(chain)
            for key in chain:
                if key in model:
                    model.move_to_end(key, last=False)
        else:
            victims = list(islice(policy.victims(), 5))
            assert victims == list(islice(model, 5))
            for key in victims:
                policy.forget(key)
                del model[key]
        if random.random() < 0.01:
            assert list(policy.victims()) == list(model)
    assert len(model) > 10_000


class ChainLruMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.policy = ChainLRU()
        self.resident: set[BlockKey] = set()

    @rule(path=paths)
    def use(self, path: bytes) -> None:
        chain = chain_to(path)
        self.policy.touch(chain)
        self.resident.update(chain)
        assert list(self.policy.victims())[-len(chain) :] == chain[::-1]

    @rule(path=paths)
    def cool(self, path: bytes) -> None:
        """End a conversation: what no other chain needs of it goes first."""
        chain = chain_to(path)
        others = [key for key in self.resident if key not in chain]
        shared = sum(any(other.startswith(key) for other in others) for key in chain)
        before = list(self.policy.victims())
        self.policy.cool(chain[shared:])
        cooled = [key for key in reversed(chain[shared:]) if key in self.resident]
        rest = [key for key in before if key not in cooled]
        assert list(self.policy.victims()) == cooled + rest

    @rule(count=st.integers(1, 4), leased=paths)
    def evict(self, count: int, leased: bytes) -> None:
        spared = set(chain_to(leased))  # leases hold whole chains
        doomed = islice((key for key in self.policy.victims() if key not in spared), count)
        for key in list(doomed):
            self.policy.forget(key)
            self.resident.remove(key)

    @invariant()
    def tracks_exactly_what_is_resident(self) -> None:
        order = list(self.policy.victims())
        assert len(order) == len(self.resident)
        assert set(order) == self.resident

    @invariant()
    def every_parent_is_resident_and_warmer(self) -> None:
        rank = {key: place for place, key in enumerate(self.policy.victims())}
        for key in self.resident:
            if parent := BlockKey(key[:-1]):
                assert rank[parent] > rank[key]


TestChainLru = ChainLruMachine.TestCase
