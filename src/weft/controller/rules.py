"""Takes virtual subnets from one rule to another, as fast as their hosts follow. Decides nothing about rules.

What comes next is ``weft.model.rules``'s to say; here it is known when: each step is written once every host that has
the subnet's rows says that it has applied the last. A host that does not say so in time (it is off, or its agent is)
is not waited for any longer: the subnet is not held up for ever, and the log says for whom it was not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from weft.contracts.clock import Clock
from weft.contracts.store import Overtaken, PreconditionFailed
from weft.controller.service import Held, Service
from weft.kit.errors import Retry
from weft.kit.waiting import first_of
from weft.model import drafts, rules
from weft.model.drafts import Draft
from weft.model.names import Name, domain_of
from weft.model.objects import VirtualSubnet
from weft.wire.api import SubnetStatus

_log = structlog.stdlib.get_logger("weft.rules")

# The store did not take a step: nothing is lost but time.
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds. absent: for a host that does not say that it follows; flight: for packets that are under way."""

    absent_s: float = 60.0
    flight_s: float = 1.0


@dataclass(slots=True)
class _Step:
    """One step of one subnet, as it was first seen. followed_s: since when every host has it."""

    revision: int
    seen_s: float
    followed_s: float | None = None


def status(service: Service, held: Held, subnet: VirtualSubnet) -> SubnetStatus:
    """How far a subnet is on the way to its rule, and whom it waits for."""
    phase = rules.phase(subnet)
    waiting = [] if phase is rules.Phase.SETTLED else lagging(service, held, subnet)
    return SubnetStatus(rule_phase=phase.value, waiting_for=waiting)


def lagging(service: Service, held: Held, subnet: VirtualSubnet) -> list[str]:
    """The hosts that do not do yet what a subnet says, each with the reason."""
    behind = service.statuses.why_behind
    return [
        f"{host}: {why}"
        for host in service.hosts_in(domain_of(subnet.name))
        if (why := behind(host, held.revision, ("subnets", subnet.vsid))) is not None
    ]


class RuleChanges:
    """One for a controller. Keeps nothing that a fresh one would miss: where a subnet is, is in the store."""

    def __init__(self, service: Service, clock: Clock, waits: Waits | None = None) -> None:
        self._service = service
        self._clock = clock
        self._waits = waits or Waits()
        self._steps: dict[Name, _Step] = {}

    async def run(self) -> None:
        """Until it is cancelled, or the service is broken."""
        while not self._service.broken.is_set():
            # Cleared first: what happens from here on is looked at in the next round.
            self._service.stirred.clear()
            wait_s = self._look()
            if wait_s <= 0:
                try:
                    await self._service.carry_on(self._due)
                    continue
                except (PreconditionFailed, Overtaken):
                    continue  # the service is broken by now, and says so
                except Retry as fault:
                    _log.warning("a change of rule is held up", reason=str(fault))
                    wait_s = _RETRY_S
            await self._until_stirred(wait_s)

    def _look(self) -> float:
        """Seconds until a step is due, as far as is known now; infinite when nobody can tell."""
        now_s = self._clock.now_s()
        for gone in self._steps.keys() - self._service.changing:
            del self._steps[gone]
        return min((self._due_s(name, now_s) - now_s for name in self._service.changing), default=math.inf)

    def _due_s(self, name: Name, now_s: float) -> float:
        """When a subnet's next step may be taken."""
        held = self._service.get(name)
        assert isinstance(held.value, VirtualSubnet)  # noqa: S101 -- a name says its kind
        step = self._steps.get(name)
        if step is None or step.revision != held.revision:
            step = self._steps[name] = _Step(held.revision, now_s)
        if lagging(self._service, held, held.value):
            step.followed_s = None
            return step.seen_s + self._waits.absent_s
        if step.followed_s is None:
            step.followed_s = now_s
        # Who follows has the new rule in its receivers: it may be sent by at once. An old one may still be under way.
        in_flight = rules.phase(held.value) is rules.Phase.SENDERS
        return step.followed_s + (self._waits.flight_s if in_flight else 0.0)

    def _due(self) -> Sequence[Draft]:
        """Every step that is due; with no other write in between, so that each rests on what is there."""
        now_s = self._clock.now_s()
        found: list[Draft] = []
        for name in sorted(self._service.changing):
            if self._due_s(name, now_s) > now_s:
                continue
            held = self._service.get(name)
            subnet = held.value
            assert isinstance(subnet, VirtualSubnet)  # noqa: S101 -- a name says its kind
            following = rules.next_step(subnet)
            late = lagging(self._service, held, subnet)
            _log.info(
                "a change of rule goes on",
                subnet=name,
                rule=subnet.rule.value,
                sending=following.sending.value,
                accepted=[rule.value for rule in following.accepted],
                **({"without": late} if late else {}),
            )
            found.append(drafts.VirtualSubnet(name, subnet.prefixes, rule_change=following))
        return found

    async def _until_stirred(self, wait_s: float) -> None:
        """Until something happens that may matter, or the time is over."""
        if wait_s < math.inf:
            await first_of(self._service.stirred.wait(), self._clock.sleep(wait_s))
        else:
            await self._service.stirred.wait()
