"""The fields of a model's `config.json`, read by name, with errors that say which and what to do.

Remembers what was read, so that a field that changes what KV is and that nobody understood is
refused instead of skipped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tierd_bench.planning.errors import PlanError

BY_HAND: Final = "give the model's figures yourself: --bytes-per-token and --active-params"

_CHANGES_KV: Final = re.compile(
    r"^(mamba|ssm|ssd|conv|linear_|lightning|retention|rwkv|time_mix|state_|cross_attention"
    r"|encoder_layers|compress|index_|num_kv_shared|kv_|attn_layer|hybrid|layer_group"
    r"|layers_block_type|block_types|attn_type|global_attn|full_attn|full_attention|sliding_window"
    r"|local_attention|attention_chunk|no_rope_layers|window|nsa_|moba|yoco|is_encoder_decoder)"
)
"""Names of fields that say something about what layers keep of a token."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one model, and where they come from.

    Every method raises `PlanError` when its field is missing or of another type; those with a
    `default` return it when the field is missing or null.
    """

    source: str
    values: Mapping[str, Any]
    used: set[str] = field(default_factory=set)

    def has(self, *names: str) -> bool:
        """Return whether one of the fields is there, and neither null, zero nor false."""
        return any(self.values.get(name) for name in names)

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return the whole number under the first of `names` that is there."""
        for name in names:
            value = self._read(name)
            if value is None:
                continue
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return value
            raise self.wrong(name, value, "a whole number, 0 or more")
        if default is None:
            known = " or ".join(repr(name) for name in names)
            raise PlanError(f"{self.source}: no field {known}", f"add it, or {BY_HAND}")
        return default

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        value = self._read(name)
        if value is None:
            return default
        if isinstance(value, str):
            return value
        raise self.wrong(name, value, "a text")

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, empty if there is none."""
        value = self._read(name)
        if value is None:
            return []
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return value
        raise self.wrong(name, value, "a list of texts")

    def places(self, name: str) -> list[int]:
        """Return a list of whole numbers, empty if there is none."""
        value = self._read(name)
        if value is None:
            return []
        if isinstance(value, list) and all(type(entry) is int for entry in value):
            return value
        raise self.wrong(name, value, "a list of whole numbers")

    def flag(self, name: str, default: str = "no") -> str:
        """Return yes or no."""
        value = self._read(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return "yes" if value else "no"
        raise self.wrong(name, value, "true or false")

    def wrong(self, name: str, value: object, wanted: str) -> PlanError:
        """Return the fault of a field with a value that makes no sense."""
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        found = f"{self.source}: field {name!r} is {shown}, wanted {wanted}"
        return PlanError(found, f"correct it, or {BY_HAND}")

    def refuse_unread(self) -> None:
        """Refuse a field that changes what KV is and that nobody has read."""
        for name, value in self.values.items():
            if value and name not in self.used and _CHANGES_KV.match(name):
                raise PlanError(
                    f"{self.source}: field {name!r} ({str(value)[:40]}) is not understood, and it "
                    "changes what layers keep",
                    BY_HAND,
                )

    def _read(self, name: str) -> Any:
        self.used.add(name)
        return self.values.get(name)
