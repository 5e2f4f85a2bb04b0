"""What a data plane needs to run the packet table: takes frames in, says what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from packets.policy import Policy
from packets.table import Case
from weft.contracts.dataplane import Traffic
from weft.policy.drop import DropReason
from weft.reference.verdict import Verdict


class Driver(Protocol):
    """One data plane of one host, named hosts/h1."""

    def load(self, policy: Policy) -> None:
        """Make rows and bindings so, in place of the former. Interfaces are those of bindings, and the uplink."""
        ...

    def inject(self, interface: str, frame: bytes) -> Verdict:
        """A frame comes in by a port's interface, from the guest, or by the uplink, from the underlay."""
        ...

    def forget(self) -> None:
        """What packets have taught it."""
        ...

    def counters(self) -> Mapping[str, Traffic]:
        """As the data plane's own; and under ``unbound`` what came in by an interface without a binding."""
        ...


#: Counters as flat numbers: (name, counter) -> value; zeros are left out.
Numbers = dict[tuple[str, str], int]


def numbers(counters: Mapping[str, Traffic]) -> Numbers:
    flat: Numbers = {}
    for name, traffic in counters.items():
        for counter in ("received_packets", "received_bytes", "sent_packets", "sent_bytes"):
            flat[name, counter] = getattr(traffic, counter)
        for reason, count in traffic.drops.items():
            flat[name, DropReason(reason).label] = count
    return {key: value for key, value in flat.items() if value}


def run(driver: Driver, case: Case) -> None:
    """Inject the case's frame into a loaded driver, and hold verdict, bytes and counters against what is expected."""
    driver.forget()
    for interface, frame in case.before:
        driver.inject(interface, frame)
    before = numbers(driver.counters())
    verdict = driver.inject(case.interface, case.frame)
    after = numbers(driver.counters())
    assert verdict == case.expected
    changed = {key: after.get(key, 0) - before.get(key, 0) for key in before.keys() | after.keys()}
    assert {key: change for key, change in changed.items() if change} == case.counted
