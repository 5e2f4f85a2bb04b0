"""What rules of security groups log, to the journal and to a file beside the agent's state. Decides nothing of it.

One line of JSON each. Data planes sample already; here is a bound for the host as a whole, so that no guest fills a
disk: what is beyond it is counted, and the count is in the next line that is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from weft.contracts.clock import Clock
from weft.contracts.connections import Logged
from weft.policy.rows import tenant_of_port

_log = structlog.get_logger("weft.agent")

PER_S = 200  #: lines, over time
AT_ONCE = 1000  #: a tenant's no more than it leaves of them
FILE_BYTES = 16 << 20  #: then it is another file's turn; the former is kept, and the one before it goes


class RuleLog:
    """``write`` for ever. now_ms: the time of day."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        now_ms: Callable[[], int],
        protocols: Mapping[int, str],
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._path = path
        self._clock = clock
        self._now_ms = now_ms
        self._protocols = protocols
        self._file_bytes = file_bytes
        self._room = float(AT_ONCE)
        self._has: dict[str, float] = {}  # by tenant: what it has taken of the room, and time has not given back
        self._at_s = clock.now_s()
        self.lost = 0  #: beyond the bound, ever
        self.fault = ""  #: why what was last logged is in no file; "": it is
        self._untold = 0

    async def write(self, logged: Iterable[Logged]) -> None:
        now_s, now_ms = self._clock.now_s(), self._now_ms()
        more = (now_s - self._at_s) * PER_S
        self._room = min(AT_ONCE, self._room + more)
        self._has = {tenant: has - more for tenant, has in self._has.items() if has > more}
        self._at_s = now_s
        lines = []
        for each in logged:
            tenant = tenant_of_port(each.port)
            has = self._has.get(tenant, 0)
            if self._room < max(has, 1):
                self.lost += 1
                self._untold += 1
                continue
            self._room -= 1
            self._has[tenant] = has + 1
            said = self._said(each)
            if self._untold:
                said["lost"], self._untold = self._untold, 0
            _log.info("rule", **said)
            lines.append(msgspec.json.encode({"time_ms": now_ms, **said}) + b"\n")
        if lines:
            await asyncio.to_thread(self._append, b"".join(lines))

    def _said(self, of: Logged) -> dict[str, Any]:
        return {
            "rule": of.rule,
            "port": of.port,
            "direction": of.direction,
            "verdict": "allowed" if of.allowed else "denied",
            "protocol": self._protocols.get(of.protocol, str(of.protocol)),
            "local": of.local,
            "remote": of.remote,
            "local_port": of.local_port,
            "remote_port": of.remote_port,
            "bytes": of.frame_bytes,
        }

    def _append(self, data: bytes) -> None:
        fault = self._fault_of(data)
        if fault != self.fault:  # once, however much is logged meanwhile
            self.fault = fault
            if fault:
                _log.warning("what rules log is not kept in a file", path=str(self._path), reason=fault)
            else:
                _log.info("what rules log is kept in a file again", path=str(self._path))

    def _fault_of(self, data: bytes) -> str:
        """Of writing it. The journal has it anyway; a full disk is no reason to stop."""
        try:
            with self._path.open("ab") as file:
                file.write(data)
                size = file.tell()
            if size >= self._file_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError as fault:
            return fault.strerror or str(fault)
        return ""
