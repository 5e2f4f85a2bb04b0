"""Who is in a VLAN behind an uplink, as far as it was heard. Reads no clock: the time comes in by argument."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from weft.policy.connections import TENANT_LEAVES
from weft.reference import packet

#: IEEE 802.1Q section 8.8.3: how long a bridge remembers, by default.
AGE_NS = 300 * 10**9
#: Who was heard outside so lately cannot be a guest of this host: what says so has gone round.
LOOP_NS = 10**9
#: Of one subnet, so many are remembered; of which it is sure of some, whatever others have.
OF_SUBNET, OWN_OF_SUBNET = 4096, 8
#: What all share beyond that, and of which a tenant's subnets have at most three times what they leave.
SHARED = 65_536


@dataclass(slots=True)
class Learned:
    """By VSID and MAC: by which uplink, and when it was heard last.

    of_subnet: no more of one subnet are remembered; own: that it is sure of; shared: what all have beyond that.
    """

    age_ns: int = AGE_NS
    of_subnet: int = OF_SUBNET
    own: int = OWN_OF_SUBNET
    shared: int = SHARED
    refused: int = 0  # how often there was no room
    _heard: dict[int, dict[bytes, tuple[str, int]]] = field(default_factory=dict)
    _tenants: dict[int, str] = field(default_factory=dict)  # whose a subnet is

    def learn(self, vsid: int, mac: bytes, interface: str, now_ns: int, tenant: str) -> None:
        """tenant: whose subnet it is."""
        if self._tenants.setdefault(vsid, tenant) != tenant:  # it is another's by now
            self._heard.pop(vsid, None)
            self._tenants[vsid] = tenant
        heard = self._heard.setdefault(vsid, {})
        if mac in heard or self._has_room(len(heard), tenant):
            heard[mac] = interface, now_ns
        else:
            self.refused += 1

    def _has_room(self, has: int, tenant: str) -> bool:
        """For one more of a tenant's subnet that has so many."""
        if has < min(self.own, self.of_subnet):
            return True
        beyond = {vsid: max(len(heard) - self.own, 0) for vsid, heard in self._heard.items()}
        left = self.shared - sum(beyond.values())
        of_tenant = sum(number for vsid, number in beyond.items() if self._tenants[vsid] == tenant)
        return has < self.of_subnet and of_tenant < TENANT_LEAVES * left

    def forget(self, vsid: int, mac: bytes) -> None:
        self._heard.get(vsid, {}).pop(mac, None)

    def clear(self) -> None:
        self._heard.clear()

    def is_outside(self, vsid: int, mac: bytes, now_ns: int) -> bool:
        """Whether the MAC was heard behind the uplink, and not too long ago."""
        return self._is_younger(vsid, mac, now_ns, self.age_ns)

    def looped(self, vsid: int, mac: bytes, now_ns: int, steps: list[str]) -> bool:
        """Whether a guest's source MAC, not its port's own, is outside at the same time; if it was before, it moved."""
        if self._is_younger(vsid, mac, now_ns, LOOP_NS):
            steps.append(f"{packet.mac_text(mac)} was heard behind the uplink just now: it has gone round")
            return True
        self.forget(vsid, mac)
        return False

    def entries(self, now_ns: int) -> Iterator[tuple[int, bytes, str, int]]:
        """VSID, MAC, interface and age in ns of who is remembered."""
        for vsid, heard in self._heard.items():
            for mac, (interface, seen_ns) in heard.items():
                if now_ns - seen_ns < self.age_ns:
                    yield vsid, mac, interface, now_ns - seen_ns

    def _is_younger(self, vsid: int, mac: bytes, now_ns: int, age_ns: int) -> bool:
        found = self._heard.get(vsid, {}).get(mac)
        return found is not None and now_ns - found[1] < age_ns
