"""Keys never drift: the same tokens have the same key in every process, release and machine."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tierd.core.keys import BlockKey, adopt_keys, chain_keys, join_keys, split_keys
from tierd.core.layouts import LayerGroup, LayoutSpec

ROOT = BlockKey(bytes(range(16)))

LLAMA = LayoutSpec("meta-llama/Llama-3.1-8B", (LayerGroup(32, 8, 128),), block_tokens=16)


def hexed(keys: list[BlockKey]) -> list[str]:
    return [key.hex() for key in keys]


def test_golden_chain() -> None:
    assert hexed(chain_keys(ROOT, [0, 1, 2, 3, 4, 5, 6, 2**32 - 1], 4)) == [
        "49e693112cd505e271abf7c4774b380d",
        "20ab51131991e0319d081b14915c373d",
    ]


def test_golden_adopted_keys() -> None:
    assert hexed(adopt_keys(ROOT, [b"first", b"second"])) == [
        "57f0b5f1291501dda8ecf4c5937bb743",
        "a67310078bd4a813874d20ff995ac930",
    ]


def test_golden_root_and_chain_of_a_model() -> None:
    assert LLAMA.root.hex() == "97bba58606da64078e9bebe4db1276c6"
    assert hexed(chain_keys(LLAMA.root, range(32), 16)) == [
        "5286a08d7c6736a409f0afd1da50a0f1",
        "15a2805886743ad85f1a9c2c9352e15d",
    ]


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_another_process_with_another_hash_seed_agrees(seed: str) -> None:
    program = (
        "from tests.unit.test_keys import LLAMA, chain_keys\n"
        "import sys\n"
        "sys.stdout.buffer.write(b''.join(chain_keys(LLAMA.root, range(100), 16)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=True,
    )
    assert run.stdout == join_keys(chain_keys(LLAMA.root, range(100), 16))


@pytest.mark.parametrize(("tokens", "keys"), [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2)])
def test_a_ragged_tail_has_no_key(tokens: int, keys: int) -> None:
    assert chain_keys(ROOT, range(tokens), 16) == chain_keys(ROOT, range(64), 16)[:keys]


def test_lists_and_arrays_of_any_integers_agree() -> None:
    expected = chain_keys(ROOT, list(range(64)), 16)
    for dtype in ("uint16", "int32", "int64", ">u4"):
        assert chain_keys(ROOT, np.arange(64, dtype=dtype), 16) == expected
    assert chain_keys(ROOT, np.arange(128, dtype="u4")[::2] // 2, 16) == expected


def test_a_key_stands_for_all_that_came_before() -> None:
    chain = chain_keys(ROOT, [1, 2, 3, 4, 5, 6], 2)
    assert chain[1:] == chain_keys(chain[0], [3, 4, 5, 6], 2)
    changed = chain_keys(ROOT, [9, 2, 3, 4, 5, 6], 2)
    assert not set(chain) & set(changed)


def test_roots_keep_chains_apart() -> None:
    other = LayoutSpec("meta-llama/Llama-3.1-8B", LLAMA.groups, block_tokens=16, tenant="blue")
    assert not set(chain_keys(LLAMA.root, range(64), 16)) & set(
        chain_keys(other.root, range(64), 16)
    )


def test_keys_travel_as_one_string() -> None:
    keys = [*chain_keys(ROOT, range(64), 16), BlockKey(bytes(16))]
    assert split_keys(join_keys(keys)) == keys
    assert all(type(key) is bytes for key in split_keys(join_keys(keys)))
    assert split_keys(b"") == []


def test_a_torn_string_of_keys_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        split_keys(bytes(17))
