"""Sends what the data plane has sampled, and what it has counted, to the host's collector. Decides nothing of either.

One task: it reads samples as they come, a tenth of a second's at once, and never waits for a collector (UDP).
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from weft.agent.ipfix import Ipfix
from weft.agent.samples import Interface
from weft.agent.sflow import Sflow
from weft.contracts.clock import Clock
from weft.contracts.dataplane import DataPlane, Samples, Traffic
from weft.kit.waiting import first_of
from weft.policy.rows import Host, Sampling, SamplingProtocol

_log = structlog.get_logger("weft.agent")

GATHER_S = 0.1
COUNTERS_S = 20.0
IDLE_S = 1.0

_T = TypeVar("_T")
_Read = tuple[Samples, Mapping[str, Traffic]]


class Ask(Protocol):
    """A question to the data plane, on the thread that may."""

    def __call__(self, question: Callable[[DataPlane], _T], /) -> Awaitable[_T]: ...


class Exporter:
    """``follow`` says where to; ``run`` sends for ever. now_ms: the time of day."""

    def __init__(self, fd: int | None, ask: Ask, clock: Clock, now_ms: Callable[[], int]) -> None:
        self._fd = fd
        self._ask = ask
        self._clock = clock
        self._now_ms = now_ms
        self._begun_s = clock.now_s()
        self._host: Host | None = None
        self._awake = asyncio.Event()
        self._counters_at_s = 0.0
        self._encoder: _Sflow | _Ipfix | None = None

    def follow(self, host: Host | None) -> None:
        """The host's row."""
        former, self._host = self._host, host
        if former is None or host is None or (former.sampling, former.pas) != (host.sampling, host.pas):
            self._encoder = _encoder(host)
            self._counters_at_s = 0.0
            self._awake.set()

    async def run(self) -> None:
        if self._fd is None:
            return
        loop = asyncio.get_running_loop()
        while True:
            # Off again before it is read: till then it stays readable, and would be called for ever.
            loop.add_reader(self._fd, self._awake.set)
            try:
                await self._woken()
            finally:
                loop.remove_reader(self._fd)
            # What comes while this sleeps is read with the rest.
            await self._clock.sleep(GATHER_S)
            self._awake.clear()
            self._send(*await self._ask(_read))

    async def _woken(self) -> None:
        """Something was sampled, or said; or, while there is sampling, it may be time for counters."""
        if self._sampling is None:
            await self._awake.wait()
        else:
            await first_of(self._awake.wait(), self._clock.sleep(IDLE_S))

    @property
    def _sampling(self) -> Sampling | None:
        return None if self._host is None else self._host.sampling

    def _send(self, read: Samples, traffic: Mapping[str, Traffic]) -> None:
        sampling = self._sampling
        if sampling is None or self._encoder is None:
            return  # read all the same: a ring that nobody empties stays readable
        interfaces = [
            Interface(ifindex, name, traffic[name]) for ifindex, name in read.names.items() if name in traffic
        ]
        now_s = self._clock.now_s()
        when = _When(int((now_s - self._begun_s) * 1000), self._now_ms())
        datagrams: list[bytes] = []
        if now_s >= self._counters_at_s:
            self._counters_at_s = now_s + COUNTERS_S
            datagrams += self._encoder.counters(interfaces, when)
        datagrams += self._encoder.samples(read, interfaces, when)
        if datagrams:
            self._to_collector(sampling, datagrams)

    def _to_collector(self, sampling: Sampling, datagrams: list[bytes]) -> None:
        family = socket.AF_INET6 if ":" in sampling.collector else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                for datagram in datagrams:
                    sender.sendto(datagram, (sampling.collector, sampling.port))
        except OSError as fault:
            _log.warning("samples are lost on their way", collector=sampling.collector, reason=str(fault))


def _read(plane: DataPlane) -> _Read:
    return plane.samples(), plane.counters()


@dataclass(frozen=True, slots=True)
class _When:
    """Now, as collectors are told of it."""

    uptime_ms: int
    now_ms: int


class _Sflow:
    def __init__(self, agent: str) -> None:
        self._of = Sflow(agent)

    def samples(self, read: Samples, interfaces: list[Interface], when: _When) -> Iterator[bytes]:
        received = {each.ifindex: each.traffic.received_packets for each in interfaces}
        return self._of.samples(read.samples, received, read.lost, when.uptime_ms)

    def counters(self, interfaces: list[Interface], when: _When) -> Iterator[bytes]:
        return self._of.counters(interfaces, when.uptime_ms)


class _Ipfix:
    """Templates go with the counters, and before a sample of a rate that was not told of yet."""

    def __init__(self, domain: int, rate: int) -> None:
        self._of = Ipfix(domain)
        self._rates = {rate}

    def samples(self, read: Samples, interfaces: list[Interface], when: _When) -> Iterator[bytes]:
        rates = {sample.rate for sample in read.samples}
        if not rates <= self._rates:
            self._rates |= rates
            yield from self._of.templates(self._rates, interfaces, when.now_ms)
        yield from self._of.samples(read.samples, when.now_ms)

    def counters(self, interfaces: list[Interface], when: _When) -> Iterator[bytes]:
        yield from self._of.templates(self._rates, interfaces, when.now_ms)
        yield from self._of.counters(interfaces, when.now_ms)


def _encoder(host: Host | None) -> _Sflow | _Ipfix | None:
    if host is None or host.sampling is None:
        return None
    if host.sampling.protocol is SamplingProtocol.IPFIX:
        return _Ipfix(zlib.crc32(host.host.encode()), host.sampling.rate)
    return _Sflow(host.pas[0] if host.pas else "0.0.0.0")  # noqa: S104  says that it has none
