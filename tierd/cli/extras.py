"""Commands that need more than the daemon does, and what they say when it is not installed."""

from importlib.util import find_spec

from tierd.cli.console import fail

_BENCH_NEEDS = ("plotly", "tiktoken", "zstandard")


def bench_or_end() -> None:
    """Return if what replaying and benchmarking need is installed, or end the command."""
    missing = [name for name in _BENCH_NEEDS if find_spec(name) is None]
    if missing:
        fail(f"not installed: {', '.join(missing)}", "pip install 'tierd[bench]'")
