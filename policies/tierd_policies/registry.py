"""Policies by name, and a user's own by "package.module:Class"."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from tierd_policies.arc import Arc
from tierd_policies.chain_lru import ChainLRU
from tierd_policies.class_hazard import ClassHazard
from tierd_policies.fifo import Fifo
from tierd_policies.gdsf import Gdsf
from tierd_policies.lfu import Lfu
from tierd_policies.protocols import Eviction
from tierd_policies.retention import Retention
from tierd_policies.s3_fifo import S3Fifo
from tierd_policies.selector import Selector
from tierd_policies.session_aware import SessionAware
from tierd_policies.sieve import Sieve
from tierd_policies.w_tinylfu import WTinyLfu

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

_METHODS: Final = ("touch", "cool", "forget", "victims")


class UnknownPolicy(ValueError):
    """No policy can be made by this name. The message says what is wrong with it."""


def eviction(name: str) -> Callable[[], Eviction]:
    """Return what makes the eviction policy `name`, a registered one or "package.module:Class".

    Raises:
        UnknownPolicy: neither; or the class cannot be found, is not made without arguments, or
            lacks a method.
    """
    if ":" not in name:
        if name not in EVICTION:
            known = ", ".join(EVICTION)
            raise UnknownPolicy(f"{name!r} is no policy; known: {known}, or package.module:Class")
        return EVICTION[name]
    return _own(name)


def _own(name: str) -> Callable[[], Eviction]:
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
    missing = [method for method in _METHODS if not callable(getattr(made, method, None))]
    if missing:
        raise UnknownPolicy(f"{name!r}: lacks {', '.join(missing)}")
    maker: Callable[[], Eviction] = made_by
    return maker
