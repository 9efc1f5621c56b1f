"""The classic policies on a flat cache, written out on plain lists, O(n) a request.

Each takes the keys asked for and the capacity, and returns for each request whether it hit.
They share no code with what they judge.
"""

from collections import Counter
from collections.abc import Callable, Sequence

Oracle = Callable[[Sequence[int], int], list[bool]]


def lru(trace: Sequence[int], capacity: int) -> list[bool]:
    """Evict the key used longest ago."""
    held: list[int] = []
    hits = []
    for key in trace:
        hits.append(key in held)
        if key in held:
            held.remove(key)
        elif len(held) == capacity:
            held.pop(0)
        held.append(key)
    return hits


def fifo(trace: Sequence[int], capacity: int) -> list[bool]:
    """Evict the key that came first."""
    held: list[int] = []
    hits = []
    for key in trace:
        hits.append(key in held)
        if key not in held:
            held = [*held, key][-capacity:]
    return hits


def lfu(trace: Sequence[int], capacity: int) -> list[bool]:
    """Evict the key used least often since it came, of equals the one used longest ago."""
    uses: dict[int, int] = {}
    used_at: dict[int, int] = {}
    hits = []
    for now, key in enumerate(trace):
        hits.append(key in uses)
        if key not in uses and len(uses) == capacity:
            del uses[min(uses, key=lambda each: (uses[each], used_at[each]))]
        uses[key] = uses.get(key, 0) + 1
        used_at[key] = now
    return hits


def gdsf(trace: Sequence[int], capacity: int) -> list[bool]:
    """Evict the least worth: uses, plus the worth of the last victim at the last use."""
    uses: dict[int, int] = {}
    worth: dict[int, tuple[int, int]] = {}
    floor = 0
    hits = []
    for now, key in enumerate(trace):
        hits.append(key in uses)
        if key not in uses and len(uses) == capacity:
            victim = min(worth, key=lambda each: worth[each])
            floor = worth[victim][0]
            del uses[victim], worth[victim]
        uses[key] = uses.get(key, 0) + 1
        worth[key] = (floor + uses[key], now)
    return hits


def sieve(trace: Sequence[int], capacity: int) -> list[bool]:
    """Evict the first unmarked from the hand on, oldest first; take the marks on the way."""
    held: list[int] = []
    marked: set[int] = set()
    hand = 0
    hits = []
    for key in trace:
        hits.append(key in held)
        if key in held:
            marked.add(key)
            continue
        if len(held) == capacity:
            hand %= len(held)
            while held[hand] in marked:
                marked.remove(held[hand])
                hand = (hand + 1) % len(held)
            del held[hand]
            # Past the newest the hand goes back to the oldest, before anything new comes.
            hand = hand if hand < len(held) else 0
        held.append(key)
    return hits


def s3_fifo(trace: Sequence[int], capacity: int, main_fills_too: bool = False) -> list[bool]:
    """Evict from a small queue what was used less than twice, or else from a clock.

    `main_fills_too`: as in libCacheSim, what no longer fits the small queue goes to the main
    one as long as nothing was evicted.
    """
    small: list[int] = []
    main: list[int] = []
    ghosts: list[int] = []
    uses: dict[int, int] = {}
    small_max = int(capacity * 0.1)
    filling = main_fills_too
    hits = []
    for key in trace:
        hits.append(key in uses)
        if key in uses:
            uses[key] += 1
            continue
        was_ghost = key in ghosts
        if was_ghost:
            ghosts.remove(key)
        while len(uses) == capacity:
            filling = False
            if len(main) > capacity - small_max or not small:
                first = main.pop(0)
                if uses[first]:
                    uses[first] = min(uses[first], 3) - 1
                    main.append(first)
                else:
                    del uses[first]
                continue
            while small and len(uses) == capacity:
                first = small.pop(0)
                if uses[first] >= 2:
                    uses[first] = 0
                    main.append(first)
                else:
                    del uses[first]
                    ghosts = [*ghosts, first][-int(capacity * 0.9) :] if capacity > 1 else []
        uses[key] = 0
        to_main = was_ghost or (filling and len(small) >= small_max)
        (main if to_main else small).append(key)
    return hits


def arc(trace: Sequence[int], capacity: int) -> list[bool]:
    """The paper's listing: T1 and T2, their ghosts B1 and B2, and the target p."""
    t1: list[int] = []
    t2: list[int] = []
    b1: list[int] = []
    b2: list[int] = []
    p = 0.0

    def replace(in_b2: bool) -> None:
        if (t1 and (len(t1) > p or (in_b2 and len(t1) == p))) or not t2:
            b1.append(t1.pop(0))
        else:
            b2.append(t2.pop(0))

    hits = []
    for key in trace:
        hits.append(key in t1 or key in t2)
        full = len(t1) + len(t2) == capacity
        if hits[-1]:
            (t1 if key in t1 else t2).remove(key)
            t2.append(key)
        elif key in b1:
            p = min(p + max(len(b2) / len(b1), 1), capacity)
            b1.remove(key)
            if full:
                replace(False)
            t2.append(key)
        elif key in b2:
            p = max(p - max(len(b1) / len(b2), 1), 0)
            b2.remove(key)
            if full:
                replace(True)
            t2.append(key)
        else:
            if full and len(t1) + len(b1) == capacity:
                if b1:
                    b1.pop(0)
                    replace(False)
                else:
                    t1.pop(0)
            elif full:
                if len(b1) + len(b2) == capacity:
                    b2.pop(0)
                replace(False)
            t1.append(key)
    return hits


def w_tinylfu(trace: Sequence[int], capacity: int) -> list[bool]:
    """A window of one key or a hundredth, probation and protected; exact counts up to 15."""
    window: list[int] = []
    probation: list[int] = []
    protected: list[int] = []
    seen = Counter[int]()
    window_max = max(1, capacity // 100)
    hits = []
    for key in trace:
        seen[key] = min(seen[key] + 1, 15)
        hits.append(key in window or key in probation or key in protected)
        if key in window:
            window.remove(key)
            window.append(key)
        elif key in probation:
            probation.remove(key)
            protected.append(key)
            while len(protected) > 0.8 * (len(probation) + len(protected)):
                probation.append(protected.pop(0))
                probation.sort(key=lambda each: _last_use(trace[: len(hits)], each))
        elif key in protected:
            protected.remove(key)
            protected.append(key)
        else:
            seen[key] -= seen[key] < 15  # It is counted when it has a place.
            if len(window) + len(probation) + len(protected) == capacity:
                residents = probation or protected
                if len(window) >= window_max and residents:
                    if seen[window[0]] > seen[residents[0]]:
                        residents.pop(0)
                        probation.append(window.pop(0))
                        probation.sort(key=lambda each: _last_use(trace[: len(hits) - 1], each))
                    else:
                        window.pop(0)
                else:
                    (residents or window).pop(0)
            elif len(window) == window_max:
                probation.append(window.pop(0))
                probation.sort(key=lambda each: _last_use(trace[: len(hits) - 1], each))
            seen[key] = min(seen[key] + 1, 15)
            window.append(key)
    return hits


def _last_use(past: Sequence[int], key: int) -> int:
    return len(past) - 1 - list(reversed(past)).index(key)
