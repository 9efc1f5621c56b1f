"""What policies make of notes about chains: kinds of blocks, and what agents do."""

from collections.abc import Sequence

from tierd.core.keys import BlockKey
from tierd_policies.class_hazard import ClassHazard
from tierd_policies.protocols import Eviction
from tierd_policies.retention import Retention
from tierd_policies.session_aware import SessionAware


def chain(name: str, blocks: int = 2) -> list[BlockKey]:
    return [BlockKey(f"{name}{place}".encode()) for place in range(blocks)]


def names(policy: Eviction, count: int) -> Sequence[str]:
    return [key.decode() for key in policy.victims()][:count]


def test_an_ended_session_goes_before_older_ones() -> None:
    policy = SessionAware()
    policy.touch(chain("old"))
    policy.touch(chain("over"))
    policy.note(chain("over"), (), "session_ended")
    assert names(policy, 4) == ["over1", "over0", "old1", "old0"]


def test_a_session_that_resumes_is_kept_again() -> None:
    policy = SessionAware()
    policy.touch(chain("over"))
    policy.note(chain("over"), (), "session_ended")
    policy.touch(chain("idle"))
    policy.touch(chain("over"))
    assert names(policy, 2) == ["idle1", "idle0"]


def test_a_pause_for_a_tool_is_kept_before_younger_sessions() -> None:
    policy = SessionAware()
    policy.touch(chain("tool"))
    policy.note(chain("tool"), (), "tool_call")
    policy.touch(chain("young"))
    assert names(policy, 2) == ["young1", "young0"]
    policy.note(chain("tool"), (), "turn_ended")
    assert names(policy, 2) == ["tool1", "tool0"]


def test_what_waits_beyond_the_quota_goes_in_order_of_use() -> None:
    policy = SessionAware(waiting_ratio=0.25)
    for name in ("a", "b", "c"):
        policy.touch(chain(name))
        policy.note(chain(name), (), "tool_call")
    policy.touch(chain("idle"))
    assert names(policy, 1) == ["a1"]


def test_thinking_goes_first_and_the_system_prompt_last() -> None:
    policy = Retention()
    for name, kind in (("s", "system"), ("u", "user"), ("t", "thinking")):
        policy.touch(chain(name, 1))
        policy.note(chain(name, 1), (kind,), "running")  # type: ignore[arg-type]
    policy.touch(chain("more", 2))
    assert names(policy, 5) == ["t0", "u0", "more1", "more0", "s0"]


def test_persistent_blocks_beyond_the_quota_go_before_sessions() -> None:
    policy = Retention(persistent_ratio=0.25)
    for name in ("s", "t"):
        policy.touch(chain(name, 1))
        policy.note(chain(name, 1), ("system",), "running")
    policy.touch(chain("u", 2))
    assert names(policy, 4) == ["s0", "u1", "u0", "t0"]


def test_an_ended_session_leaves_what_is_persistent() -> None:
    policy = Retention()
    policy.touch(chain("x", 3))
    policy.note(chain("x", 3), ("system", "user", "answer"), "session_ended")
    policy.touch(chain("y", 3))
    assert names(policy, 2) == ["x2", "x1"]


def test_a_kind_that_is_never_used_again_goes_before_an_older_one_that_is() -> None:
    policy = ClassHazard()
    for turn in range(400):
        policy.touch(chain(f"thought{turn}", 1))
        policy.note(chain(f"thought{turn}", 1), ("thinking",), "running")
        policy.touch(chain("prompt", 1))
        policy.note(chain("prompt", 1), ("system",), "running")
        if turn >= 10:
            policy.evicted(BlockKey(f"thought{turn - 10}0".encode()))
    for name in ("new", "newer"):
        policy.touch(chain(name, 1))
        policy.note(chain(name, 1), ("thinking",), "running")
    assert names(policy, 12)[-1] != "prompt0"
    order = [key.decode() for key in policy.victims()]
    assert order.index("prompt0") > order.index("thought3990")


def test_hazards_forget_what_was_long_ago() -> None:
    """A kind that is used again no more loses to one that is, however often it was once."""
    policy = ClassHazard()
    once, now = chain("once", 200), chain("now", 200)
    for _ in range(200):
        policy.touch(once)
        policy.note(once, ["tools"] * 200, "running")
    for turn in range(300):
        policy.touch(now)
        policy.note(now, ["system"] * 200, "running")
        policy.touch(chain(f"{turn}x", 150))
        policy.note(chain(f"{turn}x", 150), ["tools"] * 150, "running")
        for key in reversed(chain(f"{turn - 4}x", 150)):
            policy.evicted(key)
    assert next(policy.victims()).startswith((b"once", b"29"))
