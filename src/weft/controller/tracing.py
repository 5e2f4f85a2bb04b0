"""What would become of a packet: the reference data plane, run on the rows that the hosts involved have been sent."""

from __future__ import annotations

import asyncio
from typing import Any, assert_never

from weft.controller.service import Service
from weft.kit.errors import Missing, Rejected
from weft.model.names import Kind, parse_name_of
from weft.model.objects import Port
from weft.reference import trace
from weft.reference.plane import ReferenceDataPlane
from weft.wire.api import Traced, TraceRequest, TraceStep


async def run(service: Service, request: TraceRequest) -> Traced:
    """Few hosts have a part in it: the port's, and those that its packet is sent to."""
    try:
        name = parse_name_of(Kind.PORT, request.source)
    except Rejected as error:
        raise Rejected(error.message, "from") from error
    held = service.find(name)
    if held is None or not isinstance(held.value, Port):
        raise Missing(f"there is no {name}", "from")
    host = held.value.host
    if host is None:
        raise Rejected(f"{name} is on no host, so nothing can be sent from it", "from")
    if (request.to is None) == (request.frame is None):
        raise Rejected("a trace needs either an address to reach or a frame, and not both", "to")
    frame = None if request.frame is None else _frame(request.frame)
    rows = service.rows_of(host)
    planes: dict[str, ReferenceDataPlane] = {host: await asyncio.to_thread(trace.plane_of, host, rows)}
    if frame is None:
        protocol = trace.Protocol(request.protocol or trace.Protocol.ICMP)
        frame = trace.probe(planes[host], name, request.to or "", protocol, request.port)
    found = trace.trace(planes, host, name, frame)
    left = {end.pa for end in (found.outcome, *found.copies) if isinstance(end, trace.LeftForPa)}
    if peers := [peer for pa in sorted(left) if (peer := service.host_with(pa))]:
        # The first one's, too: it knows a connection by now, and would ask no rule.
        planes = {each: await asyncio.to_thread(trace.plane_of, each, service.rows_of(each)) for each in (host, *peers)}
        found = trace.trace(planes, host, name, frame)
    return Traced(steps=[TraceStep(step.host, step.text) for step in found.steps], outcome=_outcome(found.outcome))


def _frame(text: str) -> bytes:
    try:
        frame = bytes.fromhex(text)
    except ValueError as error:
        raise Rejected(f"{text[:40]!r} is not a frame in hex such as 0257454654010200…", "frame") from error
    if len(frame) > 65_535:
        raise Rejected(f"a frame of {len(frame)} bytes is longer than any; 65535 would be the most", "frame")
    return frame


def _outcome(outcome: trace.Outcome) -> dict[str, Any]:
    match outcome:
        case trace.Delivered(host, port, frame):
            return {"verdict": "delivered", "host": host, "port": port, "frame": frame.hex()}
        case trace.Answered(host, frame, reason):
            if reason is None:
                return {"verdict": "answered", "host": host, "frame": frame.hex()}
            return {"verdict": "dropped", "host": host, "reason": reason.label, "answer": frame.hex()}
        case trace.Dropped(host, reason):
            return {"verdict": "dropped", "host": host, "reason": reason.label}
        case trace.LeftToStack(host):
            return {"verdict": "left-to-stack", "host": host}
        case trace.LeftForPa(host, pa):
            return {"verdict": "left-for-pa", "host": host, "pa": pa}
        case trace.LeftForWire(host, interface, vlan):
            return {"verdict": "left-for-wire", "host": host, "interface": interface, "vlan": vlan}
        case trace.LeftToAgent(host, kind):
            return {"verdict": "left-to-agent", "host": host, "kind": kind.label}
        case _:
            assert_never(outcome)
