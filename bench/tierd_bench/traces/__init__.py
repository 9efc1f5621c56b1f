"""Traces of agents and chat services: readers of recorded ones, a generator of synthetic ones.

`read_trace` is the way in. Every format has one file with its reader, all of them yield
`TraceRequest`s, and driving a daemon with those is the replayer's business.
"""

from tierd_bench.traces.errors import TraceError
from tierd_bench.traces.formats import FORMAT_NAMES
from tierd_bench.traces.reading import read_trace
from tierd_bench.traces.requests import Trace, TraceRequest

__all__ = ["FORMAT_NAMES", "Trace", "TraceError", "TraceRequest", "read_trace"]
