"""Traces of agents and chat services: readers of recorded ones, a generator of synthetic ones.

`read_trace` is the way in. Every format has one file with its reader, all of them yield
`TraceRequest`s, and driving a daemon with those is the replayer's business.
"""

from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.formats import FORMAT_NAMES
from tierd_bench.traces.generate import Generated, generate
from tierd_bench.traces.reading import read_trace
from tierd_bench.traces.requests import Trace, TraceRequest
from tierd_bench.traces.summary import Summary, summarize
from tierd_bench.traces.workload import PRESETS, Preset, Workload

__all__ = [
    "FORMAT_NAMES",
    "PRESETS",
    "Generated",
    "Preset",
    "Summary",
    "Trace",
    "TraceError",
    "TraceRequest",
    "Workload",
    "generate",
    "read_trace",
    "summarize",
]
