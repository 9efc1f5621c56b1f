"""The policy that the README adds works as it stands there."""

import re
from pathlib import Path

from hypothesis import settings

import tierd_policies
from tests.policies.test_leaf_first import chain_to, check_tree


def test_the_example_is_a_policy() -> None:
    readme = (Path(tierd_policies.__file__).parent / "README.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    scope: dict[str, type] = {}
    exec(compile(example, "README.md", "exec"), scope)
    policy = scope["NewestFirst"]()
    for name in (b"a", b"bb", b"c"):
        policy.touch(chain_to(name))
    assert list(policy.victims()) == [b"c", b"bb", b"b", b"a"]
    check_tree(scope["NewestFirst"], settings(max_examples=20, deadline=None))
