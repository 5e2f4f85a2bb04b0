"""What an agent is to know of when it starts again, on disk, a file each. Only a memory: to lose it refuses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import structlog

_log = structlog.get_logger("weft.agent")

T = TypeVar("T")


class Memory(Generic[T]):
    """One value, written whole. It outlives the agent, and need not outlive the machine: nothing is waited for."""

    def __init__(self, path: Path, nothing: T) -> None:
        """nothing: what there is when there is no file, or none that can be read; its type is the value's."""
        self._path = path
        #: Whether a former agent has kept anything.
        self.found = False
        self.value = nothing
        try:
            self.value = msgspec.json.decode(path.read_bytes(), type=type(nothing))
            self.found = True
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as fault:
            _log.warning("what a former agent was in the midst of is not known", file=str(path), reason=str(fault))

    def keep(self, value: T) -> None:
        if value == self.value and self.found:
            return
        self.value, self.found = value, True
        beside = self._path.with_name(self._path.name + ".new")
        try:
            beside.write_bytes(msgspec.json.encode(value))
            beside.replace(self._path)
        except OSError as fault:
            _log.warning("what is under way is not on disk", file=str(self._path), reason=str(fault))
