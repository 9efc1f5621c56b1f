"""A configuration is read as written, or refused with where, what and what to do about it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.core.units import GiB, KiB, MiB
from tierd.service.config import Config, size_text
from tierd.service.config_file import ConfigError, Problem, load_config, render_toml


def problems_of(text: str, folder: Path, *overrides: str) -> tuple[Problem, ...]:
    path = folder / "tierd.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


def test_defaults_need_no_file() -> None:
    config = load_config()
    assert config == Config()
    assert config.tiers.host.bytes == 4 * GiB
    assert config.tiers.disk.bytes == 0
    assert (config.listen.tcp, config.listen.http) == ("", "")
    assert config.leases.read_ns == 30 * 10**9


@pytest.mark.parametrize(
    ("written", "size"),
    [("8GiB", 8 * GiB), ("0", 0), ("1.5GiB", 3 * GiB // 2), ("128 MiB", 128 * MiB), ("1GB", 10**9)],
)
def test_sizes_are_written_with_units(written: str, size: int) -> None:
    assert load_config(overrides=[f"tiers.device.bytes={written}"]).tiers.device.bytes == size


def test_an_override_beats_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "tierd.toml"
    path.write_text('[tiers.host]\nbytes = "1GiB"\n\n[log]\nlevel = "error"\n')
    config = load_config(path, ["tiers.host.bytes=2GiB", "tiers.host.bytes=3GiB"])
    assert config.tiers.host.bytes == 3 * GiB
    assert config.log.level == "error"


@pytest.mark.parametrize("written", ["/a,/b", '["/a", "/b"]'])
def test_directories_are_a_list_or_separated_by_commas(written: str) -> None:
    config = load_config(
        overrides=[f"tiers.disk.directories={written}", "tiers.disk.bytes=1GiB"],
    )
    assert config.tiers.disk.directories == (Path("/a"), Path("/b"))


def test_an_override_may_be_empty() -> None:
    assert load_config(overrides=["listen.tcp="]).listen.tcp == ""


def test_what_is_printed_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(
        overrides=[
            f'tiers.disk.directories=["{tmp_path}/a \\"b\\"", "/ü"]',
            "tiers.disk.bytes=1GiB",
            "tenancy.allowed_uids=[1000, 1001]",
            "leases.read_s=0.25",
        ],
    )
    path = tmp_path / "tierd.toml"
    path.write_text(render_toml(config), encoding="utf-8")
    assert load_config(path) == config


def test_what_is_printed_gives_each_default_with_its_reason() -> None:
    text = render_toml(load_config(overrides=["tiers.host.bytes=8GiB"]))
    assert 'bytes = "8GiB"' in text
    assert 'Default: "4GiB"' in text
    keys = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert text.count("Default:") == len(keys)


def test_nothing_edits_a_config() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().log.level = "debug"  # type: ignore[misc]


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known_one(tmp_path: Path) -> None:
    (problem,) = problems_of('[tiers.host]\n# more\nbytez = "8GiB"\n', tmp_path)
    assert problem.where.endswith("tierd.toml, line 3")
    assert problem.setting == 'tiers.host.bytez = "8GiB"'
    assert problem.wrong == "unknown key"
    assert problem.remedy == "did you mean tiers.host.bytes?"


@pytest.mark.parametrize(
    ("text", "line", "remedy"),
    [
        ('[tires.host]\nbytes = "1GiB"\n', 1, "did you mean tiers?"),
        ('\nunix = "/run/x.sock"\n', 2, "did you mean listen.unix?"),
        ("tiers.host.watermark_hihg_ratio = 0.9\n", 1, "tiers.host.watermark_high_ratio?"),
        ("[limits]\nsessions = 3\n", 2, "did you mean limits.sessions_max?"),
        ("qqq = 1\n", 1, "tierd config"),
    ],
)
def test_unknown_keys_get_advice(tmp_path: Path, text: str, line: int, remedy: str) -> None:
    (problem,) = problems_of(text, tmp_path)
    assert problem.where.endswith(f"line {line}")
    assert remedy in problem.remedy


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    text = '[tiers.host]\nbytes = "8 apples"\n[log]\nlevel = "loud"\n[limits]\nsessions_max = 0\n'
    problems = problems_of(text, tmp_path, "leases.read_s=-1")
    assert {problem.setting for problem in problems} == {
        'tiers.host.bytes = "8 apples"',
        'log.level = "loud"',
        "limits.sessions_max = 0",
        "leases.read_s = -1",
    }
    by_set = [problem for problem in problems if problem.where == "--set"]
    assert [problem.setting for problem in by_set] == ["leases.read_s = -1"]
    assert all(problem.remedy for problem in problems)


@pytest.mark.parametrize(
    ("override", "wrong"),
    [
        ("listen.tcp=nohost", "host:port"),
        ("listen.tcp=127.0.0.1:70000", "host:port"),
        ("listen.unix=run/tierd.sock", "current directory"),
        (f"listen.unix=/{'x' * 120}", "121 bytes long"),
        ("tiers.disk.directories=./here", "current directory"),
        ("tiers.region_bytes=5000", "multiple of 4KiB"),
        ("tiers.host.bytes=-1", "no size"),
        ("tiers.device.bytes=true", "no sizes"),
        ("tiers=3", "table"),
        ("limits.sessions_max=many", "integer"),
        ("tiers.host.watermark_high_ratio=95", "less than or equal to 1"),
        ("listen", "key=value"),
    ],
)
def test_a_wrong_value_is_refused(override: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        load_config(overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["tiers.disk.bytes=1GiB"], "tiers.disk.directories"),
        (["tiers.disk.directories=/a"], "tiers.disk.bytes"),
        (["tiers.disk.bytes=1GiB", "tiers.disk.directories=/a,/a"], "tiers.disk.directories"),
        (["tiers.disk.bytes=100MiB", "tiers.disk.directories=/a,/b"], "tiers.disk.bytes"),
        (["tiers.host.watermark_low_ratio=0.99"], "tiers.host.watermark_low_ratio"),
        (["tiers.host.bytes=1MiB"], "tiers.host.bytes"),
        (["tiers.device.bytes=1MiB"], "tiers.device.bytes"),
        (["tiers.host.bytes=0"], "tiers.host.bytes"),
    ],
)
def test_settings_at_odds_are_refused(overrides: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=overrides)
    (problem,) = caught.value.problems
    assert problem.setting.startswith(f"{key} = ")


def test_a_disk_tier_may_be_switched_off_and_keep_its_directories() -> None:
    config = load_config(overrides=["tiers.disk.directories=/a", "tiers.disk.bytes=0"])
    assert config.tiers.disk.bytes == 0


def test_small_tiers_go_with_small_regions() -> None:
    config = load_config(overrides=["tiers.region_bytes=64KiB", "tiers.host.bytes=1MiB"])
    assert config.tiers.region_bytes == 64 * KiB


def test_a_file_that_is_not_there_is_a_problem_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "missing.toml")


def test_text_that_is_not_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    (problem,) = problems_of("[tiers.host]\nbytes = 8GiB\n", tmp_path)
    assert "line 2" in problem.wrong
    assert 'bytes = "8GiB"' in problem.remedy


def test_the_example_for_deployment_is_accepted() -> None:
    example = Path(__file__).parents[2] / "deploy" / "tierd.toml"
    assert load_config(example).tiers.disk.io_threads == 8


@given(st.integers(0, 1 << 50))
def test_a_size_is_printed_exactly(size: int) -> None:
    size -= size % (4 * KiB)
    printed = size_text(size)
    loaded = load_config(overrides=[f"tiers.device.bytes={printed}", "tiers.region_bytes=4KiB"])
    assert loaded.tiers.device.bytes == size
