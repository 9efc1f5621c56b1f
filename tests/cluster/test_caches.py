"""A prefix cache never holds more than it may, and forgets the coldest context's end first."""

from hypothesis import given
from hypothesis import strategies as st

from tierd_bench.cluster.caches import PrefixCache


def test_the_coldest_context_loses_its_end() -> None:
    cache = PrefixCache(100)
    cache.put(1, 60)
    cache.put(2, 60)
    assert (cache.held(1), cache.held(2)) == (40, 60)
    cache.put(1, 50)
    assert (cache.held(1), cache.held(2)) == (50, 50)


def test_a_context_larger_than_the_cache_keeps_its_beginning() -> None:
    cache = PrefixCache(100)
    cache.put(1, 500)
    assert cache.held(1) == 100


def test_nothing_is_kept_without_room() -> None:
    cache = PrefixCache(0)
    cache.put(1, 10)
    assert cache.held(1) == 0


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 150)), max_size=40),
)
def test_it_holds_what_a_plain_list_would(room: int, puts: list[tuple[int, int]]) -> None:
    cache = PrefixCache(room)
    model: list[tuple[int, int]] = []  # Coldest first.
    for agent, tokens in puts:
        cache.put(agent, tokens)
        before = dict(model).get(agent, 0)
        model = [entry for entry in model if entry[0] != agent]
        model.append((agent, min(room, max(tokens, before))))
        while sum(held for _, held in model) > room:
            coldest, held = model[0]
            over = sum(held for _, held in model) - room
            model[0:1] = [(coldest, held - over)] if held > over else []
        assert {a: cache.held(a) for a in range(6)} == {a: dict(model).get(a, 0) for a in range(6)}
