"""The Python SDK: every program but the controller itself goes through it. Decides nothing."""

from __future__ import annotations

from weft.client.client import ApiError, AsyncClient, Client, Put
from weft.client.endpoints import DEFAULT_URL
from weft.wire.api import (
    Applied,
    Change,
    Event,
    FailureReport,
    HostStatus,
    Item,
    Page,
    PortReport,
    PortStatus,
    StatusReport,
    Traced,
    TraceStep,
)

__all__ = [
    "Client",
    "AsyncClient",
    "ApiError",
    "DEFAULT_URL",
    "Put",
    "Item",
    "Page",
    "Change",
    "Applied",
    "Event",
    "Traced",
    "TraceStep",
    "StatusReport",
    "PortReport",
    "FailureReport",
    "PortStatus",
    "HostStatus",
]
