"""Policies are found by name, and a user's own by its module path; what is wrong is said."""

import pytest

from tierd_policies.chain_lru import ChainLRU
from tierd_policies.registry import EVICTION, UnknownPolicy, eviction


@pytest.mark.parametrize("name", list(EVICTION))
def test_every_name_makes_a_policy(name: str) -> None:
    assert list(eviction(name)().victims()) == []


def test_a_module_path_makes_a_policy() -> None:
    assert eviction("tierd_policies.chain_lru:ChainLRU") is ChainLRU


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lifo", "'lifo' is no policy; known: chain_lru, fifo"),
        ("no.such.module:Lifo", "cannot import 'no.such.module'"),
        (":Lifo", "cannot import ''"),
        ("tierd_policies.fifo:Lifo", "tierd_policies.fifo has no class 'Lifo'"),
        ("tierd_policies.levels:LeveledLru", "must be made without arguments"),
        ("tierd_policies.promotion:NeverPromote", "lacks touch, cool, forget, victims"),
    ],
)
def test_what_is_wrong_is_said(name: str, said: str) -> None:
    with pytest.raises(UnknownPolicy, match=said):
        eviction(name)
