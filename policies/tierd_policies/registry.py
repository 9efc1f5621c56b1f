"""Policies by name, and a user's own by "package.module:Class"."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final, TypeVar

from tierd_policies.admission import AlwaysAdmit, SecondTouch
from tierd_policies.arc import Arc
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.class_hazard import ClassHazard
from tierd_policies.endurance import EnduranceBudget
from tierd_policies.fifo import Fifo
from tierd_policies.frequency_admission import FrequencyAdmission
from tierd_policies.gdsf import Gdsf
from tierd_policies.lfu import Lfu
from tierd_policies.prefetch import NextTurn, OnHint, QueueLookAhead
from tierd_policies.promotion import NeverPromote, PromoteByCost, PromoteOnHit
from tierd_policies.protocols import Admission, Eviction, Prefetch, Promotion
from tierd_policies.retention import Retention
from tierd_policies.s3_fifo import S3Fifo
from tierd_policies.selector import Selector
from tierd_policies.session_aware import SessionAware
from tierd_policies.sieve import Sieve
from tierd_policies.w_tinylfu import WTinyLfu

T = TypeVar("T")

EVICTION: Final[dict[str, Callable[[], Eviction]]] = {
    "chain_lru": ChainLRU,
    "fifo": Fifo,
    "lfu": Lfu,
    "sieve": Sieve,
    "s3_fifo": S3Fifo,
    "arc": Arc,
    "w_tinylfu": WTinyLfu,
    "gdsf": Gdsf,
    "class_hazard": ClassHazard,
    "session_aware": SessionAware,
    "retention": Retention,
    "selector": Selector,
}

ADMISSION: Final[dict[str, Callable[[], Admission]]] = {
    "always": AlwaysAdmit,
    "second_touch": SecondTouch,
    "frequency": FrequencyAdmission,
    "endurance": EnduranceBudget,
}

PROMOTION: Final[dict[str, Callable[[], Promotion]]] = {
    "on_hit": PromoteOnHit,
    "always": PromoteOnHit,
    "by_cost": PromoteByCost,
    "never": NeverPromote,
}
"""`on_hit` and `always` differ in what the configuration adds: the number of hits."""

PREFETCH: Final[dict[str, Callable[[], Prefetch]]] = {
    "on_hint": OnHint,
    "next_turn": NextTurn,
    "queue_look_ahead": QueueLookAhead,
}


class UnknownPolicy(ValueError):
    """No policy can be made by this name. The message says what is wrong with it."""


def eviction(name: str) -> Callable[[], Eviction]:
    """Return what makes the eviction policy `name`, a registered one or "package.module:Class".

    Raises:
        UnknownPolicy: neither; or the class cannot be found, is not made without arguments, or
            lacks a method.
    """
    return _maker(name, EVICTION, ("touch", "cool", "forget", "victims"))


def admission(name: str) -> Callable[[], Admission]:
    """Return what makes the admission policy `name`, as `eviction` does."""
    return _maker(name, ADMISSION, ("admit",))


def promotion(name: str) -> Callable[[], Promotion]:
    """Return what makes the promotion policy `name`, as `eviction` does."""
    return _maker(name, PROMOTION, ("promote",))


def prefetch(name: str) -> Callable[[], Prefetch]:
    """Return what makes the prefetch policy `name`, as `eviction` does."""
    return _maker(name, PREFETCH, ("hinted", "paused", "fetched", "due", "next_ns"))


def _maker(
    name: str, known: Mapping[str, Callable[[], T]], methods: Sequence[str]
) -> Callable[[], T]:
    if ":" in name:
        own: Callable[[], T] = _own(name, methods)
        return own
    if name not in known:
        names = ", ".join(known)
        raise UnknownPolicy(f"{name!r} is no policy; known: {names}, or package.module:Class")
    return known[name]


def _own(name: str, methods: Sequence[str]) -> Any:
    path, _, class_name = name.partition(":")
    try:
        module = import_module(path)
    except (ImportError, ValueError) as error:
        raise UnknownPolicy(f"{name!r}: cannot import {path!r}: {error}") from error
    made_by: Any = getattr(module, class_name, None)
    if not callable(made_by):
        raise UnknownPolicy(f"{name!r}: {path} has no class {class_name!r}")
    try:
        made = made_by()
    except TypeError as error:
        raise UnknownPolicy(f"{name!r}: must be made without arguments: {error}") from error
    missing = [method for method in methods if not callable(getattr(made, method, None))]
    if missing:
        raise UnknownPolicy(f"{name!r}: lacks {', '.join(missing)}")
    return made_by
