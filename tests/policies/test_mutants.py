"""The tests of policies can fail: each mutant here is killed by the check named for it."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.policies import oracles
from tests.policies.mutants import Mutant
from tests.policies.replaying import flat_hits, scanned
from tests.policies.test_leaf_first import asks, check_like_chain_lru, check_tree

_KILLED = (AssertionError, KeyError, StopIteration)

_SEARCH = settings(
    max_examples=500,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.generate],  # To find one failure is enough; the smallest is not wanted.
    report_multiple_bugs=False,
    print_blob=False,
    derandomize=True,
)

TREE = {
    "a parent never becomes a leaf again": Mutant(
        "fifo:Fifo", "self._uncover(parent, key)", "pass"
    ),
    "a covered block stays a leaf": Mutant("lfu:Lfu", "self._cover(parent)", "pass"),
    "a parent is bared by its first child to go": Mutant(
        "s3_fifo:S3Fifo", "                if left[parent]:\n                    break\n", ""
    ),
    "bared parents are left out": Mutant("arc:Arc", "later.append(parent)", "pass"),
    "parents are never proposed": Mutant("sieve:Sieve", "                yield parent\n", ""),
    "chain LRU touches the root first": Mutant("chain_lru:ChainLRU", "reversed(chain)", "chain"),
    "a moved block stays in its level": Mutant(
        "retention:Retention", "self._move(key, _LEVELS[kind])", "self._levels[key] = _LEVELS[kind]"
    ),
    "a group is changed in place": Mutant(
        "class_hazard:ClassHazard",
        "                self._leave(key)\n                self",
        "                self",
    ),
    "w_tinylfu forgets no leaf": Mutant("w_tinylfu:WTinyLfu", "        super()._remove(key)\n", ""),
}

LIKE_LRU = {
    "the hazard ranks by group alone": Mutant(
        "class_hazard:ClassHazard",
        "leaves.place(key, self._stamps[key])",
        "leaves.place(key, -self._stamps[key])",
    ),
    "a use does not move a block": Mutant(
        "class_hazard:ClassHazard",
        "            self._stamps[key] = stamp\n            stamp -= 1",
        "            self._stamps.setdefault(key, stamp)\n            stamp -= 1",
    ),
}

FLAT: dict[str, tuple[Mutant, oracles.Oracle]] = {
    "fifo moves what is used": (
        Mutant("fifo:Fifo", "        pass\n", "        self._oldest_first.move_to_end(key)\n"),
        oracles.fifo,
    ),
    "lfu does not count": (
        Mutant("lfu:Lfu", "self._uses[key] += 1", "self._uses[key] += 0"),
        oracles.lfu,
    ),
    "sieve moves the hand back": (
        Mutant(
            "sieve:Sieve",
            "            self._passed[first] = None",
            "            self._ahead[first] = None",
        ),
        oracles.sieve,
    ),
    "sieve loses its marks when looked at": (
        Mutant(
            "sieve:Sieve",
            "        for queue in",
            "        self._used.clear()\n        for queue in",
        ),
        oracles.sieve,
    ),
    "s3_fifo has no ghosts": (
        Mutant("s3_fifo:S3Fifo", "self._ghosts[key] = None", "pass"),
        oracles.s3_fifo,
    ),
    "s3_fifo keeps after one use": (
        Mutant("s3_fifo:S3Fifo", "_USES_TO_STAY: Final = 2", "_USES_TO_STAY: Final = 1"),
        oracles.s3_fifo,
    ),
    "s3_fifo gives no second lap": (
        Mutant("s3_fifo:S3Fifo", "_LAPS_MAX) - 1)", "_LAPS_MAX) - 3)"),
        oracles.s3_fifo,
    ),
    "arc never adapts": (
        Mutant("arc:Arc", "self._target + max(often / once, 1)", "self._target"),
        oracles.arc,
    ),
    "arc sends ghosts to the wrong list": (
        Mutant(
            "arc:Arc",
            "            self._used_often.add(key)\n            self._missed",
            "            self._missed",
        ),
        oracles.arc,
    ),
    "w_tinylfu lets every challenger win": (
        Mutant(
            "w_tinylfu:WTinyLfu",
            "count(challenger) > self._sketch",
            "count(challenger) > -self._sketch",
        ),
        oracles.w_tinylfu,
    ),
    "w_tinylfu protects nothing": (
        Mutant(
            "w_tinylfu:WTinyLfu", "_PROTECTED_RATIO: Final = 0.8", "_PROTECTED_RATIO: Final = 0.0"
        ),
        oracles.w_tinylfu,
    ),
    "gdsf does not age": (
        Mutant("gdsf:Gdsf", "max(self._floor, self._worth[key])", "0.0"),
        oracles.gdsf,
    ),
    "gdsf costs nothing": (
        Mutant("gdsf:Gdsf", "self._uses[key] * cost", "cost"),
        oracles.gdsf,
    ),
}


@pytest.mark.parametrize("mutant", TREE.values(), ids=list(TREE))
def test_the_tree_machine_kills(mutant: Mutant) -> None:
    make = mutant.build()
    with pytest.raises(_KILLED):
        check_tree(make, _SEARCH)


@pytest.mark.parametrize("mutant", LIKE_LRU.values(), ids=list(LIKE_LRU))
def test_comparing_with_chain_lru_kills(mutant: Mutant) -> None:
    make = mutant.build()

    @_SEARCH
    @given(chains=asks, capacity=st.integers(1, 30))
    def search(chains: list[list[bytes]], capacity: int) -> None:
        check_like_chain_lru(make, chains, capacity)  # type: ignore[arg-type]

    with pytest.raises(_KILLED):
        search()


@pytest.mark.parametrize(("mutant", "oracle"), FLAT.values(), ids=list(FLAT))
def test_the_oracles_kill(mutant: Mutant, oracle: oracles.Oracle) -> None:
    trace = scanned(3000, 400, 2)
    assert flat_hits(mutant.build(), trace, 40) != oracle(trace, 40)
