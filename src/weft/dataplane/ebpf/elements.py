"""Writes entries so that no run of a program that has found one sees another's in its place. Knows no map of ours.

The kernel gives the element of an entry that has gone, or was replaced, to the next one of the same hash at once, on
the same CPU: whoever has found it before reads another's value from there on, or half of it (kernel/bpf/hashtab.c and
memalloc.c, in every version from 6.1 on). So nothing is put into a hash from which something has gone until every run
that was under way then has ended; and what is there is written over in place, by a program, word by word. Tries keep
theirs for as long by themselves (lpm_trie.c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, islice

from weft.dataplane.ebpf import layout, libbpf

_RUN_BYTES = 3072  # what a test run takes, on any kernel, is a page less some room
_MOST = 128  # OVERWRITE_MOST
_HEAD_BYTES = 14


class Elements:
    """Those of all hashes that one process writes. overwrite: the program that does so; None: all are replaced.

    It counts moments: of each hash it knows when something went from it last, and which moment no run has seen.
    """

    def __init__(
        self, overwrite: libbpf.Program | None = None, outlast: Callable[[], None] = libbpf.outlast_runs
    ) -> None:
        self._run = None if overwrite is None else libbpf.TestRun(overwrite)
        self._outlast = outlast
        self._now = 1
        self._outlasted = 0
        self._freed: dict[int, int] = {}  # by map; of others a former process may have done so

    def outlast(self) -> None:
        """Returns when no run of a program is under way any more that had begun before."""
        now = self._now
        self._outlast()
        self._outlasted = now

    def put(
        self, of: libbpf.Map, keys: Sequence[bytes], values: Sequence[bytes], there: Sequence[bool]
    ) -> libbpf.BatchResult:
        """As libbpf.Map.update_batch. there: whether each has an entry already."""
        if of.type != libbpf.MapType.HASH:
            return of.update_batch(b"".join(keys), b"".join(values), len(keys))
        done = 0
        for is_there, some in groupby(there):
            end = done + len(list(some))
            while done < end:
                if is_there:
                    done += self._overwrite(of, keys[done:end], values[done:end])
                    if done == end:
                        break
                count = 1 if is_there else end - done
                self._wait(of)
                if is_there:
                    self._free(of)
                result = of.update_batch(
                    b"".join(keys[done : done + count]), b"".join(values[done : done + count]), count
                )
                done += result.done
                if result.errno:
                    return libbpf.BatchResult(done, result.errno)
        return libbpf.BatchResult(done, 0)

    def delete(self, of: libbpf.Map, keys: Sequence[bytes]) -> libbpf.BatchResult:
        """As libbpf.Map.delete_batch."""
        if of.type == libbpf.MapType.HASH:
            self._free(of)
        return of.delete_batch(b"".join(keys), len(keys))

    def _free(self, of: libbpf.Map) -> None:
        self._now += 1
        self._freed[of.id] = self._now

    def _wait(self, of: libbpf.Map) -> None:
        if self._freed.get(of.id, 1) > self._outlasted:
            self.outlast()

    def _overwrite(self, of: libbpf.Map, keys: Sequence[bytes], values: Sequence[bytes]) -> int:
        """How many were, before the first that is not there, or is to be replaced as a whole."""
        number = layout.OVERWRITTEN.get(of.name)
        if self._run is None or number is None:
            return 0
        entries = [key + value for key, value in zip(keys, values, strict=True)]
        if of.name in layout.IDENTIFIED:
            for at, (key, value) in enumerate(zip(keys, values, strict=True)):
                former = of.lookup(key)
                if former is None or layout.identity(of.name, former) != layout.identity(of.name, value):
                    entries = entries[:at]
                    break
        done = 0
        most = min(_RUN_BYTES // (of.key_bytes + of.value_bytes), _MOST)
        left = iter(entries)
        while some := list(islice(left, most)):
            head = bytes(_HEAD_BYTES) + layout.PLACE.pack(number, len(some))
            written = self._run(head + b"".join(some), 1).retval
            done += written
            if written < len(some):
                break
        return done
