"""Files, folders and archives, all as a stream of documents.

Gzip and Zstandard are undone here, and tar archives are walked from front to back in one pass,
so that a few sessions of a large archive cost only its beginning. What a document means is left
to the formats.
"""

import gzip
import io
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Final

import zstandard

from tierd_bench.traces.errors import TraceError

HEAD_BYTES: Final = 1 << 20
"""How much of a document is looked at to tell its format."""

_TRACE_SUFFIXES: Final = (".json", ".jsonl", ".traj")
_PACKED_SUFFIXES: Final = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON or JSON-lines text, wherever it lies.

    `name` is for people, `label` for naming sessions (unique in one reading), and documents
    with one `folder` belong to one recording.
    """

    name: str
    label: str
    folder: str
    open: Callable[[], IO[bytes]]

    @property
    def stem(self) -> str:
        """The file's name, without folders and endings."""
        return _without_endings(PurePosixPath(self.name.rpartition(":")[2]).name)

    def head(self) -> str:
        """Return the beginning, as text."""
        with self.reading() as stream:
            return stream.read(HEAD_BYTES).decode(errors="replace")

    @contextmanager
    def reading(self) -> Iterator[IO[bytes]]:
        """Open the document from its start; faults of the file become a `TraceError`."""
        with unpack_faults_named(self.name), self.open() as stream:
            yield stream


def find_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """Yield every trace document in `paths`, in order.

    Folders are walked in the order of names, archives in their own order. A path given by name
    is always yielded; inside folders and archives only *.json, *.jsonl and *.traj count, packed
    or not.

    Raises:
        TraceError: a path is missing, cannot be unpacked, or holds no document.
    """
    labels: Counter[str] = Counter()
    for path in paths:
        found = 0
        with unpack_faults_named(str(path)):
            for document in _documents_of(path):
                found += 1
                labels[document.label] += 1
                repeat = labels[document.label]
                label = document.label if repeat == 1 else f"{document.label}#{repeat}"
                yield replace(document, label=label)
        if not found:
            raise TraceError(
                str(path), "no trace in it", "give files that end in .json[l] or .traj"
            )


@contextmanager
def unpack_faults_named(source: str) -> Iterator[None]:
    """Turn the faults of file systems and unpackers into a `TraceError` that names `source`."""
    try:
        yield
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, tarfile.TarError) as fault:
        remedy = "check that the file is there and whole"
        raise TraceError(source, str(fault) or type(fault).__name__, remedy) from fault


def _documents_of(path: Path) -> Iterator[Document]:
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            if _is_archive(file.name):
                yield from _archived(file)
            elif _is_trace(file.name):
                yield _filed(file, file.relative_to(path))
    elif _is_archive(path.name):
        yield from _archived(path)
    else:
        yield _filed(path, Path(path.name))


def _filed(file: Path, shown: Path) -> Document:
    label = _without_endings(shown.as_posix())
    return Document(str(file), label, str(file.parent), lambda: _unpacked(file))


def _archived(archive: Path) -> Iterator[Document]:
    with _unpacked(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as members:
        for member in members:
            inner = PurePosixPath(member.name)
            if not member.isfile() or not _is_trace(inner.name):
                continue
            content = members.extractfile(member)
            assert content is not None, "a regular file has content"
            data = _unpack_bytes(inner.name, content.read())
            name = f"{archive}:{inner}"
            folder = f"{archive}:{inner.parent}"
            # The bytes are bound now: the archive has moved on when the document is opened.
            yield Document(name, _without_endings(str(inner)), folder, _opener(data))


def _opener(data: bytes) -> Callable[[], IO[bytes]]:
    return lambda: io.BytesIO(data)


def _unpacked(file: Path) -> IO[bytes]:
    if file.name.endswith((".gz", ".tgz")):
        return io.BufferedReader(gzip.GzipFile(file))
    if file.name.endswith(".zst"):
        # Appending to such a file adds a frame; without the flag only the first would be read.
        unpacked = zstandard.ZstdDecompressor().stream_reader(
            file.open("rb"), read_across_frames=True, closefd=True
        )
        return io.BufferedReader(unpacked)
    return file.open("rb")


def _unpack_bytes(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.decompress(data)
    if name.endswith(".zst"):
        unpacker = zstandard.ZstdDecompressor()
        return unpacker.stream_reader(data, read_across_frames=True).read()
    return data


def _is_archive(name: str) -> bool:
    return name.endswith((".tar", ".tar.gz", ".tgz", ".tar.zst"))


def _is_trace(name: str) -> bool:
    for ending in _PACKED_SUFFIXES:
        name = name.removesuffix(ending)
    return name.endswith(_TRACE_SUFFIXES) and not name.startswith(".")


def _without_endings(name: str) -> str:
    for ending in (*_PACKED_SUFFIXES, *_TRACE_SUFFIXES):
        name = name.removesuffix(ending)
    return name
