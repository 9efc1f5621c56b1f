"""The configuration names the eviction policy: a registered one, or a user's own class."""

from pathlib import Path

import pytest

from tests.policies.replaying import Cache
from tierd.core.keys import BlockKey
from tierd.service.config_file import ConfigError, load_config
from tierd_policies.registry import EVICTION, eviction

OWN = """
class Lifo:
    def __init__(self):
        self._keys = {}
    def touch(self, chain):
        self._keys.update(dict.fromkeys(chain))
    def cool(self, chain):
        pass
    def forget(self, key):
        self._keys.pop(key, None)
    def victims(self):
        return reversed(self._keys)
"""


@pytest.mark.parametrize("name", list(EVICTION))
def test_every_registered_name_is_accepted(name: str) -> None:
    assert load_config(overrides=[f"policies.eviction={name}"]).policies.eviction == name


def test_a_class_of_the_users_own_is_accepted_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_own_policies.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(overrides=["policies.eviction=their_own_policies:Lifo"])
    cache = Cache(eviction(config.policies.eviction)(), capacity=2)
    for name in (b"a", b"b", b"c"):
        cache.ask([BlockKey(name)])
    assert cache.held == {b"a", b"c"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("lifo", "is no policy"), ("no.such:Lifo", "cannot import"), ("json:loads", "without arg")],
)
def test_what_cannot_be_made_is_refused_with_its_reason(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"policies.eviction={name}"])
    [problem] = caught.value.problems
    assert problem.setting.startswith("policies.eviction")
    assert said in problem.wrong
