"""Broken versions of the policies, each made by one change to the source text.

Nothing is patched: the changed module is compiled anew, and the policy's own module with it
where the change is in what policies share.
"""

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from tests.policies.replaying import Make

_SHARED = "from tierd_policies.leaf_first import LeafFirst\n"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`policy` is "module:Class"; `change` is in that module, or in `leaf_first` if that has it."""

    policy: str
    was: str
    becomes: str

    def build(self) -> Make:
        """Return what makes the broken policy."""
        name, _, class_name = self.policy.partition(":")
        own, shared = _source(name), _source("leaf_first")
        if self.was in own:
            scope = _run(own.replace(self.was, self.becomes, 1))
        else:
            assert self.was in shared, self
            base = _run(shared.replace(self.was, self.becomes, 1))["LeafFirst"]
            scope = _run(own.replace(_SHARED, ""), LeafFirst=base)
        return cast(Make, scope[class_name])


def _source(module: str) -> str:
    return inspect.getsource(import_module(f"tierd_policies.{module}"))


def _run(source: str, **given: Any) -> dict[str, Any]:
    # Dataclasses and enums look their module up.
    scope: dict[str, Any] = {"__name__": "tierd_policies.leaf_first", **given}
    exec(compile(source, "mutant", "exec"), scope)
    return scope
