"""`TierdTier` under vLLM's real tiering manager, which asserts what it wants of a tier."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from os import kill
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartDaemon
from tests.integration.daemons import Daemon, eventually
from tests.vllm.engines import ENVIRONMENT, ROOT
from tests.vllm.tier_rows import key_of, row_of
from tierd.core.units import KiB, MiB

ROWS = 64


class Framework:
    """The process of `tests.vllm.tier_child`. Each of its managers has a name."""

    def __init__(self, python: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [str(python), "-X", "faulthandler", "-m", "tests.vllm.tier_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                cwd=ROOT,
                env=ENVIRONMENT,
                text=True,
            )

    def tell(self, which: str, name: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([which, name, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.log()
        return json.loads(line)

    def log(self) -> str:
        return self._log.read_text()[-8000:]

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0, self.log()


class Tiers:
    """One of its managers."""

    def __init__(self, framework: Framework, name: str) -> None:
        self._framework = framework
        self._name = name
        self._is_open = True

    def ask(self, what: str, **arguments: Any) -> Any:
        """Return the answer, or what was raised."""
        return self._framework.tell(self._name, what, **arguments)

    def tell(self, what: str, **arguments: Any) -> Any:
        answer = self.ask(what, **arguments)
        assert not isinstance(answer, dict), (answer, self._framework.log())
        return answer

    def close(self) -> None:
        """End it. Safe to call twice."""
        if self._is_open:
            self._is_open = False
            self.tell("close")

    def settle(self) -> None:
        """Take steps until nothing is under way."""
        eventually(lambda: not self.tell("step"))

    def store(self, id: str, seed: int, places: list[int]) -> None:
        """Store some of the blocks of a request, and end it."""
        self.tell("request", id=id, seed=seed, blocks=max(places) + 1)
        self.tell("store", id=id, places=places)
        self.tell("finish", id=id)
        self.settle()

    def look(self, id: str, **places: list[int]) -> list[str]:
        """Ask until there is an answer."""
        answers: list[str] = []

        def answered() -> bool:
            answers[:] = self.tell("look_at" if places else "look", id=id, **places)
            self.tell("step")
            return not {"RETRY", "HIT_PENDING"} & set(answers)

        eventually(answered)
        return answers

    def find(self, id: str, seed: int, blocks: int) -> int:
        """Return how many blocks of a new request are found, having looked that they are right."""
        self.tell("request", id=id, seed=seed, blocks=blocks)
        found = self.look(id).count("HIT")
        assert self.tell("right", id=id, places=list(range(found))) == [True] * found
        self.tell("finish", id=id)
        return found


MakeTiers = Callable[..., Tiers]


@pytest.fixture(scope="module")
def framework(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Framework]:
    made = Framework(vllm_python, tmp_path_factory.mktemp("tiers") / "log")
    yield made
    made.end()


@pytest.fixture
def make_tiers(framework: Framework) -> Iterator[MakeTiers]:
    """Makes managers that end with the test."""
    made: list[Tiers] = []

    def make(daemon: Daemon, groups: int = 1, rows: int = ROWS, **tier: Any) -> Tiers:
        tiers = Tiers(framework, str(len(made)))
        entry = {"address": daemon.address, **tier}
        tiers.tell("open", groups=groups, rows=rows, tier=entry)
        made.append(tiers)
        return tiers

    yield make
    for each in made:
        each.close()


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Daemon:
    return start_daemon(16 * MiB, tiers__host__bytes=4 * MiB)


def test_what_one_stored_another_finds(daemon: Daemon, make_tiers: MakeTiers) -> None:
    one, other = make_tiers(daemon), make_tiers(daemon)
    one.store("a", 1, list(range(9)))
    assert other.find("b", 1, 12) == 9
    assert other.find("c", 2, 3) == 0
    daemon.restart()
    another = make_tiers(daemon)
    assert another.find("d", 1, 9) == 9


def test_an_answer_is_not_waited_for(daemon: Daemon, make_tiers: MakeTiers) -> None:
    one, other = make_tiers(daemon), make_tiers(daemon)
    one.store("a", 1, [0, 1])
    other.tell("request", id="b", seed=1, blocks=2)
    assert other.tell("look", id="b") == ["RETRY", "RETRY"]
    assert other.look("b") == ["HIT", "HIT"]


def test_one_at_the_back_is_brought_behind_those_at_hand(
    daemon: Daemon, make_tiers: MakeTiers
) -> None:
    one, other = make_tiers(daemon), make_tiers(daemon)
    one.store("a", 1, list(range(8)))
    assert other.find("b", 1, 3) == 3
    other.tell("request", id="c", seed=1, blocks=8)
    assert other.look("c", places=[6, 3, 4]) == ["HIT"] * 3
    assert other.tell("right", id="c", places=[6, 3, 4]) == [True] * 3


def test_all_of_a_request_is_offered_again(
    start_daemon: StartDaemon, make_tiers: MakeTiers
) -> None:
    """What vLLM has in its first tier already, a daemon that lost it gets."""
    daemon = start_daemon()
    one = make_tiers(daemon)
    one.store("a", 1, [0, 1, 2])
    daemon.restart()
    other, ids = make_tiers(daemon), map(str, count())
    assert other.find("b", 1, 3) == 0

    def is_held_again() -> bool:
        one.store(next(ids), 1, [0, 1, 2, 3, 4])
        return other.find(next(ids), 1, 5) == 5

    eventually(is_held_again)


@pytest.mark.parametrize(("blocks", "found"), [("chained", "MISS"), ("alone", "HIT")])
def test_blocks_without_those_before_them(
    daemon: Daemon, make_tiers: MakeTiers, blocks: str, found: str
) -> None:
    one, other = make_tiers(daemon, blocks=blocks), make_tiers(daemon, blocks=blocks)
    one.store("a", 1, [2, 3])
    other.tell("request", id="b", seed=1, blocks=4)
    assert other.look("b", places=[3, 2]) == [found] * 2
    assert other.look("b", places=[1, 0]) == ["MISS"] * 2
    if found == "HIT":
        assert other.tell("right", id="b", places=[3, 2]) == [True] * 2


def test_blocks_of_several_groups_are_alone(daemon: Daemon, make_tiers: MakeTiers) -> None:
    """However many there are, one message brings them."""
    one, other = make_tiers(daemon, groups=2), make_tiers(daemon, groups=2)
    stored = [2, 3, *range(7, 30)]
    one.store("a", 1, stored)
    other.tell("request", id="b", seed=1, blocks=32)
    assert other.look("b", places=[31, *stored, 0]) == ["MISS", *["HIT"] * len(stored), "MISS"]
    assert other.tell("right", id="b", places=stored) == [True] * len(stored)
    assert [each.requests for each in daemon.status().namespaces] == [1]


def test_what_is_lost_among_blocks_alone_ends_nothing(
    daemon: Daemon, make_tiers: MakeTiers
) -> None:
    make_tiers(daemon, blocks="alone").store("a", 1, list(range(8)))
    daemon.stop()
    _damage(daemon, key_of(1, 2), key_of(1, 5))
    daemon.start()
    other = make_tiers(daemon, blocks="alone")
    other.tell("request", id="b", seed=1, blocks=9)
    others = [0, 1, 3, 4, 6, 7]
    answers = other.look("b", places=list(range(9)))
    assert [at for at, answer in enumerate(answers) if answer == "HIT"] == others
    assert other.tell("right", id="b", places=others) == [True] * len(others)


def test_of_blocks_alone_the_last_ones_of_a_request_go_first(
    start_daemon: StartDaemon, make_tiers: MakeTiers
) -> None:
    daemon = start_daemon(tiers__host__bytes=128 * KiB)
    one, other = make_tiers(daemon, blocks="alone"), make_tiers(daemon, blocks="alone")
    for seed in (1, 2):
        one.store(str(seed), seed, list(range(12)))
    other.tell("request", id="b", seed=1, blocks=12)
    answers = other.look("b", places=list(range(12)))
    left = answers.count("HIT")
    assert 0 < left < 12
    assert answers == ["HIT"] * left + ["MISS"] * (12 - left)


@pytest.mark.parametrize("apart", ["salt", "tenant", "revision"])
def test_who_is_apart_shares_nothing(daemon: Daemon, make_tiers: MakeTiers, apart: str) -> None:
    make_tiers(daemon).store("a", 1, [0, 1])
    assert make_tiers(daemon, **{apart: "other"}).find("b", 1, 2) == 0
    assert make_tiers(daemon, groups=2).find("c", 1, 2) == 0


def test_a_block_that_is_lost_after_it_was_found_is_a_miss(
    daemon: Daemon, make_tiers: MakeTiers
) -> None:
    """The first ones come; the others are not asked for again and again."""
    make_tiers(daemon).store("a", 1, list(range(6)))
    daemon.stop()
    _damage(daemon, key_of(1, 4))
    daemon.start()
    assert make_tiers(daemon).find("b", 1, 6) == 4


def test_a_daemon_that_dies_between_answer_and_load(daemon: Daemon, make_tiers: MakeTiers) -> None:
    one, other = make_tiers(daemon), make_tiers(daemon)
    one.store("a", 1, [0, 1, 2])
    eventually(lambda: daemon.status().tiers[1].blocks == 3)
    other.tell("request", id="b", seed=1, blocks=3)
    eventually(lambda: _is_promised(other, "b"))
    daemon.kill()
    assert other.look("b") == ["MISS"]
    other.tell("finish", id="b")
    other.store("c", 2, [0, 1])
    daemon.start()
    ids = map(str, count())
    eventually(lambda: other.find(next(ids), 1, 3) == 3)


def test_a_daemon_that_does_not_answer_is_not_waited_for(
    daemon: Daemon, make_tiers: MakeTiers
) -> None:
    """Its blocks are missing while the question is open, and found when it has answered."""
    one, other = make_tiers(daemon), make_tiers(daemon)
    one.store("a", 1, [0, 1, 2])
    other.tell("request", id="b", seed=1, blocks=3)
    kill(daemon.pid, signal.SIGSTOP)
    try:
        assert other.look("b") == ["MISS"]
    finally:
        kill(daemon.pid, signal.SIGCONT)
    eventually(lambda: other.look("b") == ["HIT"] * 3)


@pytest.mark.parametrize("blocks", ["chained", "alone"])
def test_an_engine_ends_while_a_daemon_does_not_answer(
    daemon: Daemon, make_tiers: MakeTiers, blocks: str
) -> None:
    """Once it waited for all that was still to be asked, for seconds each."""
    one = make_tiers(daemon, blocks=blocks)
    kill(daemon.pid, signal.SIGSTOP)
    try:
        for seed in range(60):
            one.tell("request", id=str(seed), seed=seed, blocks=2)
            one.tell("look", id=str(seed))
        one.tell("step")
        one.close()
    finally:
        kill(daemon.pid, signal.SIGCONT)


def test_stores_that_nobody_takes_do_not_pile_up(daemon: Daemon, make_tiers: MakeTiers) -> None:
    """Only so many wait, and none for long: meanwhile vLLM cannot use the memory for others."""
    one = make_tiers(daemon, rows=128, deadline_s=0.5)
    for seed in range(70):
        one.tell("request", id=str(seed), seed=seed, blocks=1)
    kill(daemon.pid, signal.SIGSTOP)
    try:
        for seed in range(70):
            one.tell("store", id=str(seed), places=[0])
        one.tell("step")  # What is over is asked for once in a step, and first by a store.
        one.tell("step")
        assert one.tell("under_way") == 64
        one.settle()
    finally:
        kill(daemon.pid, signal.SIGCONT)


def test_memory_is_left_alone_when_it_is_asked_for(daemon: Daemon, make_tiers: MakeTiers) -> None:
    one, other = make_tiers(daemon), make_tiers(daemon)
    one.tell("request", id="a", seed=1, blocks=30)
    one.tell("store", id="a", places=list(range(30)))
    one.tell("forget")
    assert one.tell("under_way") == 0
    assert other.find("b", 1, 30) == 30


@pytest.mark.parametrize(
    ("tier", "told"),
    [
        ({"adress": "/x"}, "secondary_tiers[].adress is '/x': use only address,"),
        ({"address": "nowhere"}, "address is 'nowhere': write unix:/path, /path or host:port"),
        ({"salt": 5}, "secondary_tiers[].salt is 5: give a text"),
        ({"blocks": "some"}, "secondary_tiers[].blocks is 'some': one of auto, chained, alone"),
        ({"locality": "far"}, "secondary_tiers[].locality is 'far': LOCAL or REMOTE"),
        ({"deadline_s": 0}, "secondary_tiers[].deadline_s is 0: more than 0 seconds"),
        ({"deadline_s": "1"}, "secondary_tiers[].deadline_s is '1': more than 0 seconds"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    framework: Framework, tier: dict[str, Any], told: str
) -> None:
    answer = Tiers(framework, "refused").ask("open", groups=1, rows=ROWS, tier=tier)
    assert told in answer["error"]


def _damage(daemon: Daemon, *keys: bytes) -> None:
    """Overwrite some bytes of blocks on the disk of a daemon that does not run."""
    for segment in daemon.segments():
        held = segment.read_bytes()
        for key in keys:
            held = held.replace(row_of(key)[:64], bytes(64))
        segment.write_bytes(held)


def _is_promised(tiers: Tiers, id: str) -> bool:
    """Say whether the tier has said that it holds a request's blocks, and take a step if not."""
    if set(tiers.tell("look", id=id)) == {"HIT_PENDING"}:
        return True
    tiers.tell("step")
    return False
