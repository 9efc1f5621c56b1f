"""Torch computes the sums that numpy computes, for tensors of any size and place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tierd.core.sums import page_sums as page_sums_by_numpy
from tierd.core.units import MiB
from tierd_client.cuda_sums import page_sums


def tensor_of(payload: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8)


@given(size=st.integers(1, 20_000), seed=st.integers(0, 2**32), at=st.integers(0, 9))
def test_torch_and_numpy_agree(size: int, seed: int, at: int) -> None:
    payload = np.random.default_rng(seed).bytes(at + size)
    assert page_sums(tensor_of(payload)[at:]) == page_sums_by_numpy(memoryview(payload)[at:])


@pytest.mark.parametrize("size", [4 * MiB - 1, 4 * MiB, 4 * MiB + 1, 9 * MiB + 4096])
def test_large_parts_are_summed_in_strips(size: int) -> None:
    payload = np.random.default_rng(size).bytes(size)
    assert page_sums(tensor_of(payload)) == page_sums_by_numpy(memoryview(payload))


def test_the_largest_words_wrap_alike() -> None:
    payload = b"\xff\xff\xff\x7f\x00\x00\x00\x80" * 512
    assert page_sums(tensor_of(payload)) == page_sums_by_numpy(memoryview(payload))
