"""What `kv_connector_extra_config` may say."""

import logging
from dataclasses import dataclass, fields
from typing import Any

from tierd.core.errors import InvalidRequest

log = logging.getLogger("vllm.tierd")


@dataclass(frozen=True, slots=True)
class Settings:
    """The connector's settings, each with its default.

    `address` is the daemon's, empty for the default socket. `block_tokens` is how many tokens
    make a block of tierd, a multiple of the engine's block size; 0 chooses. A load that has not
    come after `deadline_s` is computed instead. `tenant` and `salt` keep apart what must not be
    shared. `decline_slow_loads` computes what measured rates say is computed faster than loaded.
    `loads` and `saves` follow from `kv_role`.

    Units: seconds, tokens.
    """

    address: str = ""
    block_tokens: int = 0
    deadline_s: float = 5.0
    tenant: str = ""
    salt: str = ""
    decline_slow_loads: bool = True
    loads: bool = True
    saves: bool = True


def settings_of(transfer: Any) -> Settings:
    """Return the settings in a `KVTransferConfig`.

    Raises:
        InvalidRequest: a key or a value is none of those above; the message says which.
    """
    given = dict(transfer.kv_connector_extra_config or {})
    known = {each.name: each for each in fields(Settings) if each.name not in ("loads", "saves")}
    for name, value in given.items():
        where = f"kv_connector_extra_config.{name}"
        if name not in known:
            raise InvalidRequest(where, repr(value), f"one of {', '.join(known)}")
        _check(where, value, known[name].type)
    settings = Settings(**given, loads=transfer.is_kv_consumer, saves=transfer.is_kv_producer)
    if settings.deadline_s <= 0:
        where = "kv_connector_extra_config.deadline_s"
        raise InvalidRequest(where, repr(settings.deadline_s), "more than 0 seconds")
    if settings.block_tokens < 0:
        where = "kv_connector_extra_config.block_tokens"
        raise InvalidRequest(where, repr(settings.block_tokens), "a multiple of the block size")
    return settings


def keep_requests_alive(transfer: Any) -> None:
    """Have lost blocks computed anew, which is not what vLLM does unless it is told to."""
    if transfer.kv_load_failure_policy != "recompute":
        log.warning(
            'kv_load_failure_policy is "%s", which fails a request whose blocks are lost; tierd '
            'sets it to "recompute". Say so in --kv-transfer-config to be rid of this warning.',
            transfer.kv_load_failure_policy,
        )
        transfer.kv_load_failure_policy = "recompute"


def _check(where: str, value: Any, wanted: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number if wanted is float else type(value) is wanted
    if not fits:
        raise InvalidRequest(where, repr(value), f"a {wanted.__name__}")
