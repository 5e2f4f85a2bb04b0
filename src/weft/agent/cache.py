"""The last policy, on this host's disk: the feed's own lines, so that what was read once is read again alike.

Never a source of truth: a file that is torn, cut or gone costs a longer start and nothing else. It is written before
the data plane is told, so that an agent that is killed in between comes back knowing the newer row, not the older one.
Every method may block on the disk; whoever calls puts it on a thread.

The file is a journal. Lines count from bookmark to bookmark: those after the last one never happened. A full start is
written beside it and takes its place when everything was sent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from weft.contracts.clock import Clock
from weft.feed.reflector import Batch, Piece, Tables
from weft.kit.errors import Rejected
from weft.policy.rows import ORDER, TABLES, Row, Scope
from weft.wire import feed as wire

_RANK = {kind: ORDER[table] for table, kind in TABLES.items()}

#: A journal is rewritten when it is this many times as long as what it says; below the floor it is not worth it.
GROWTH = 2
FLOOR_BYTES = 1 << 20

#: A disk that refused is asked again after this long.
RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the file held. revision None: nothing usable. torn_bytes: what was cut off behind the last bookmark."""

    tables: Tables
    revision: int | None
    torn_bytes: int = 0
    history: str = ""


@dataclass(frozen=True, slots=True)
class Compaction:
    """All rows as of a bookmark, to be written anew."""

    revision: int
    rows: Mapping[Scope, Sequence[Row]]
    history: str = ""

    @classmethod
    def of(cls, tables: Tables, revision: int, history: str = "") -> Compaction:
        """References only, taken in a few ms: rows do not change."""
        return cls(revision, {scope: list(table.values()) for scope, table in tables.scopes.items()}, history)


class Cache:
    """The file and what is known of it. fault: why the disk does not take what it should, empty when it does."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._beside = path.with_name(path.name + ".new")
        self._rewritten = path.with_name(path.name + ".compact")
        self._clock = clock
        self._file: BinaryIO | None = None
        self._starting: BinaryIO | None = None
        self._revision: int | None = None
        self._size = 0
        self._live_size = 0
        self._complete = False  # the file says all that it was given; one line lost, and no more may follow
        self._retry_at_s = 0.0
        self.fault = ""

    @property
    def wants_compaction(self) -> bool:
        if not self._complete:
            return self.fault != "" and self._clock.now_s() >= self._retry_at_s
        return self._size > GROWTH * self._live_size + FLOOR_BYTES

    def load(self) -> Loaded:
        """Everything up to the last bookmark that can be read; what is behind it is cut off."""
        for beside in (self._beside, self._rewritten):
            beside.unlink(missing_ok=True)
        if not self._path.exists():
            return Loaded(Tables(), None)
        tables, decoder = Tables(), wire.Decoder()
        waiting: list[wire.Rows | wire.Leave] = []
        entries, good, position = 0, 0, 0
        history = ""
        with self._path.open("rb") as file:
            for line in file:
                position += len(line)
                if not line.endswith(b"\n"):
                    break
                try:
                    frame = decoder.decode(line)
                except Rejected:
                    break
                match frame:
                    case wire.Rows() | wire.Leave():
                        waiting.append(frame)
                    case wire.Bookmark():
                        tables.carry_out(waiting)
                        entries += sum(len(each.puts) if isinstance(each, wire.Rows) else 1 for each in waiting)
                        waiting.clear()
                        self._revision, history = frame.revision, frame.history
                        good = position
                    case wire.Resume():
                        pass
        torn = self._path.stat().st_size - good
        if torn:
            os.truncate(self._path, good)
        self._size = good
        self._live_size = good * len(tables) // max(entries, 1)
        self._complete = self._revision is not None
        if self._revision is None:
            return Loaded(Tables(), None, torn)
        return Loaded(tables, self._revision, torn, history)

    def begin(self) -> None:
        """A stream begins: a full start that did not come to its end is void."""
        if self._starting is not None:
            self._starting.close()
            self._starting = None

    def write(self, event: Piece | Batch) -> None:
        """What the feed brought. A disk that refuses is a fault to report, and no reason to stop."""
        try:
            match event:
                case Piece():
                    self._start().writelines(_terminated(event.lines))
                case Batch(full=True):
                    file = self._start()
                    file.writelines(_terminated(event.lines))
                    self._starting = None
                    self._replace(file, event.revision)
                case Batch():
                    self._append(event)
        except OSError as fault:
            self._failed(fault)

    def compact(self, compaction: Compaction) -> None:
        try:
            self._replace(_written(self._rewritten, compaction), compaction.revision)
        except OSError as fault:
            self._failed(fault)

    def close(self) -> None:
        self.begin()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _start(self) -> BinaryIO:
        if self._starting is None:
            self._starting = self._beside.open("wb")
        return self._starting

    def _append(self, batch: Batch) -> None:
        if not self._complete or (len(batch.lines) == 1 and batch.revision == self._revision):
            return
        if self._file is None:
            # Unbuffered: a batch is one write, so that no part of it waits in a process that may be killed.
            self._file = self._path.open("ab", buffering=0)
        data = b"".join(_terminated(batch.lines))
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(data)
        self._revision = batch.revision

    def _replace(self, file: BinaryIO, revision: int) -> None:
        with file:
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with nothing behind it
            self._size = self._live_size = file.tell()
        Path(file.name).replace(self._path)
        if self._file is not None:
            self._file.close()
            self._file = None
        self._revision = revision
        self._complete = True
        self.fault = ""

    def _failed(self, fault: OSError) -> None:
        self.begin()
        self._complete = False
        self._retry_at_s = self._clock.now_s() + RETRY_S
        self.fault = f"{self._path}: {fault.strerror or fault}"
        with contextlib.suppress(OSError):
            # What was written in part is behind the last bookmark, and would be cut off at the next start anyway.
            os.truncate(self._path, self._size)


def _terminated(lines: Iterable[bytes]) -> Iterable[bytes]:
    for line in lines:
        yield line
        if not line.endswith(b"\n"):
            yield b"\n"


def _written(path: Path, compaction: Compaction) -> BinaryIO:
    file = path.open("wb")
    try:
        for scope, rows in compaction.rows.items():
            ordered = sorted(rows, key=lambda row: _RANK[type(row)])
            for start in range(0, len(ordered), wire.CHUNK_ROWS):
                file.write(wire.encode_rows(scope, ordered[start : start + wire.CHUNK_ROWS]))
        file.write(wire.encode_bookmark(compaction.revision, synced=True, history=compaction.history))
    except BaseException:
        file.close()
        raise
    return file
