"""Room for the disk tier is looked for at start: what can never fit is refused, the rest said."""

import logging
import os
from pathlib import Path

import pytest

from tierd.core.errors import InvalidRequest
from tierd.core.units import PAGE_BYTES
from tierd.service.disk_space import look_for_room


def whole_bytes(directory: Path) -> int:
    system = os.statvfs(directory)
    return system.f_blocks * system.f_frsize


def test_more_than_the_device_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^tiers\.disk\.bytes is .*: .* in all; lower it"):
        look_for_room([tmp_path], whole_bytes(tmp_path) + PAGE_BYTES)


def test_directories_on_one_device_share_its_room(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        place.mkdir()
    with pytest.raises(InvalidRequest):
        look_for_room(places, whole_bytes(tmp_path) + PAGE_BYTES)


def test_more_than_is_free_now_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    look_for_room([tmp_path], whole_bytes(tmp_path))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "will not be written" in record.getMessage()


def test_what_fits_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    look_for_room([tmp_path], PAGE_BYTES)
    assert not caplog.records
