"""Maps and programs of one host in the kernel, by generation. Knows no row; decides what of a former agent is reused.

A generation is a directory of pinned maps whose name is a digest of their layouts and sizes; in it, a directory of
pinned programs whose name is a digest of the object file and its constants. So the names alone say what fits.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from weft.dataplane.ebpf import bpffs, layout, libbpf
from weft.dataplane.ebpf.btf import Btf, Translation
from weft.kit.errors import Rejected
from weft.policy.connections import EXPECTED_OF_PORT, OWN_OF_PORT
from weft.reference.learning import OWN_OF_SUBNET

_DIGITS = 16
_MOST = 1 << 28  # entries of a map
#: Machines that show each CPU what another has read and written in the order of its program (s390x does, too).
_IN_ORDER = ("x86_64", "s390x")
#: A quarter of the rules' room is the ports' own, twice (shares.py), and the door counts on 64 entries of each.
_RULES, _RULES_OF_PORT = 1 << 20, 4 * 64
_MAPS, _PROGRAMS = "maps-", "programs-"

PROGRAMS = (
    "weft_from_port", "weft_port", "weft_flood", "weft_rewrite", "weft_bridge", "weft_to_port", "weft_from_uplink",
    "weft_rewritten", "weft_from_wire", "weft_to_uplink", "weft_ingress", "weft_ingress_copy",
    "weft_conntrack", "weft_overwrite", "weft_unlearn",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many entries each map has room for; of what tenants share, beside what each routing domain, or port, is sure
    of (reserves.py; connections: the programs). Memory is taken as entries come.
    """

    subnets: int = 3 << 13
    records: int = 3 << 16
    macs: int = 3 << 16
    routes: int = 3 << 14
    ports: int = 4096
    sources: int = 3 << 16
    peers: int = 4096
    members: int = 3 << 16
    listeners: int = 16384
    wanted: int = 65536
    learned: int = 65536
    connections: int = 1 << 18
    #: Of security groups, as the programs look them up: former and new ones while they change. None: what the door
    #: lets in of so many ports, twice over.
    rules: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            entries = getattr(self, field.name)
            if entries is not None and not 1 <= entries <= _MOST:
                raise Rejected(f"{entries} entries are outside 1..{_MOST}", field.name)

    @property
    def identities(self) -> int:
        """Also of records that there is no room for."""
        return 2 * self.records

    @property
    def further_macs(self) -> int:
        """By which ports are reached besides their own: guests have announced them."""
        return 3 * self.ports

    @property
    def subports(self) -> int:
        """A quarter of all ports is of those that have an interface, which operators place."""
        return max(3 * self.ports // 4, 1)

    def _with_own(self, entries: int) -> int:
        """And what is each routing domain's own: there are no more of them here than ports."""
        return min(entries + max(entries // (3 * self.ports), 1) * self.ports, _MOST)

    @property
    def by_map(self) -> Mapping[str, int]:
        """Map name -> entries."""
        subnets, records, macs = map(self._with_own, (self.subnets, self.records, self.macs))
        rules = min(max(_RULES, _RULES_OF_PORT * self.ports), _MOST) if self.rules is None else self.rules
        return {
            "subnets": subnets,
            "provider_groups": subnets,
            "groups": subnets,
            "records": records,
            "macs": macs,
            "moving": macs,
            "rewrites": records,
            "pas": records,
            "routes": self._with_own(self.routes),
            "ports": self.ports,
            "local": self.ports + self.further_macs,
            "sources": self._with_own(self.sources),
            "aliases": 2 * self.peers,
            "paths": self.peers,
            "qos": self.ports,
            "buckets": 2 * self.ports,
            "members": self._with_own(self.members),
            "receivers": self.ports,
            "listeners": self.listeners,
            "wanted": self._with_own(self.wanted),
            "segments": subnets,
            "segment_vsids": subnets,
            "hearing": subnets,
            "learned": min(self.learned + OWN_OF_SUBNET * subnets, _MOST),
            "sampling": self.ports + 16,
            "guards": self.ports,
            "identities": self._with_own(self.identities),
            "hits": max(rules // 2, 1),  # one for each rule that there is room for
            "rules": rules,
            "classes": rules,
            # And each port's own, of those that its guest begins and of those that others do.
            "connections": min(self.connections + 2 * OWN_OF_PORT * self.ports, _MOST),
            "tenants": 2 * self.ports,
            "quotas": 8 * self.ports,  # of ports that are gone, too, while their connections are there
            "expecting": 4 * self.ports,
            # What every port may expect, and as many that have just gone.
            "expectations": min(2 * EXPECTED_OF_PORT * self.ports, _MOST),
            "lines": min(layout.LINE_PLACES * self.ports, _MOST),
            "datagrams": min(layout.DATAGRAM_PLACES * self.ports, _MOST),
            "mirrors": self.ports,
            "counters": self.ports + 16,  # uplinks, and the slot of those that have none
            "counter_slots": self.ports + 16,
        }


@dataclass(frozen=True, slots=True)
class Loaded:
    """The maps and programs that this process works with. generation: where they are pinned; None: nowhere."""

    maps: Mapping[str, libbpf.Map]
    programs: Mapping[str, libbpf.Program]
    generation: Path | None
    programs_at: Path | None

    def close(self) -> None:
        libbpf.close_all(self.maps, self.programs)


#: How long an upcall uses up the share of its interface and kind: twenty a second go on for ever.
UPCALL_INTERVAL_NS = 50_000_000


@dataclass(frozen=True, slots=True)
class Times:
    """What the programs are told of time, before they are loaded.

    learned_ns: how long one who was heard in a VLAN behind an uplink is believed to be there. loop_ns: for how long he
    cannot be a guest here as well.
    """

    upcall_interval_ns: int = UPCALL_INTERVAL_NS
    learned_ns: int = 300 * 10**9
    loop_ns: int = 10**9


TIMES = Times()


def load(source: Path, sizes: Sizes, pins: Path | None, times: Times = TIMES) -> Loaded:
    """The object's maps and programs: those pinned below ``pins`` that fit, and new ones, pinned, for the rest."""
    try:
        digest = hashlib.sha256(source.read_bytes())
    except FileNotFoundError:
        raise Rejected(f"{source} does not exist: python {Path(__file__).with_name('build.py')} compiles it") from None
    with libbpf.Object(source) as opened:
        btf = Btf(opened.btf())
        check_layouts(opened, btf)
        constants = {
            "weft_decap_l3": int(libbpf.has_decap_l3()),
            "weft_weakly_ordered": int(platform.machine() not in _IN_ORDER),
            "weft_upcall_interval_ns": times.upcall_interval_ns,
            "weft_learned_ns": times.learned_ns,
            "weft_loop_ns": times.loop_ns,
            "weft_learned_own": OWN_OF_SUBNET,
            "weft_learned_most": sizes.learned,
        }
        for name, value in constants.items():
            place = btf.constant(name)
            if place is not None:
                opened.write_constants(place[0], value.to_bytes(place[1], sys.byteorder))
                digest.update(f"{name}={value}".encode())
        opened.resize(sizes.by_map)
        if pins is None:
            maps, programs = opened.load()
            return Loaded(maps, programs, None, None)
        generation = pins / (_MAPS + _layout_digest(opened, btf, sizes))
        at = generation / (_PROGRAMS + digest.hexdigest()[:_DIGITS])
        bpffs.make(generation)
        found = _pinned(generation, at)
        if found is not None:
            return found
        opened.pin_maps(generation)
        maps, programs = opened.load()
    _pin_programs(programs, at)
    return Loaded(maps, programs, generation, at)


def generations(pins: Path) -> Iterator[Path]:
    """Every generation that is pinned there."""
    return (path for path in bpffs.entries(pins) if path.name.startswith(_MAPS))


def former(pin: Path, like: libbpf.Map) -> libbpf.Map | None:
    """A map of another generation, to be closed by the caller; None when it is not there or of another layout."""
    found = _former(pin, like)
    if found is None or (found.key_bytes, found.value_bytes) == (like.key_bytes, like.value_bytes):
        return found
    found.close()
    return None


def former_entries(pin: Path, like: libbpf.Map) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a map of another generation, as this one lays them out: each field is what the one of its name
    was there, and 0 where there was none. None at all when the map is not there, or nothing says how it is laid out.
    """
    found = _former(pin, like)
    if found is None:
        return
    try:
        before, now = found.types(), like.types()
        if before is not None and now is not None:
            of, to = Btf(before.btf), Btf(now.btf)
            key, value = Translation(of, before.key, to, now.key), Translation(of, before.value, to, now.value)
            for entry in found.items():
                yield key(entry[0]), value(entry[1])
        elif (found.key_bytes, found.value_bytes) == (like.key_bytes, like.value_bytes):
            yield from found.items()
    finally:
        found.close()


def _former(pin: Path, like: libbpf.Map) -> libbpf.Map | None:
    try:
        return libbpf.Map.of(like.name, libbpf.pinned(pin))
    except FileNotFoundError:
        return None


def holds_only(pin: Path, like: libbpf.Map, keys: Container[bytes]) -> bool:
    """Whether the map of another generation has no key but these. What cannot be compared is taken to have others."""
    found = former(pin, like)
    if found is None:
        return False
    try:
        return all(key in keys for key, _ in found.items())
    finally:
        found.close()


def forget_others(pins: Path, keep: Loaded) -> None:
    """Unpin every other generation, and other programs of this one. What is still attached goes on by itself."""
    for generation in generations(pins):
        if generation != keep.generation:
            bpffs.remove(generation)
    if keep.generation is not None:
        for path in bpffs.entries(keep.generation):
            if path.name.startswith(_PROGRAMS) and path != keep.programs_at:
                bpffs.remove(path)


def check_layouts(opened: libbpf.Object, btf: Btf) -> None:
    """Refuses an object whose maps this code does not know how to fill."""
    definitions = opened.definitions()
    for name, (key, value) in layout.LAYOUTS.items():
        definition = definitions.get(name)
        if definition is None:
            raise Rejected(f"{opened.path} has no map {name}: it was compiled for another version of Weft")
        sizes = btf.size(definition.key_type), btf.size(definition.value_type)
        if sizes != (key.size, value.size):
            raise Rejected(
                f"{opened.path}: map {name} has {sizes} bytes of key and value, not {(key.size, value.size)}"
            )
    missing = set(PROGRAMS) - set(opened.program_names)
    if missing:
        raise Rejected(f"{opened.path} has no program {', '.join(sorted(missing))}")


def _layout_digest(opened: libbpf.Object, btf: Btf, sizes: Sizes) -> str:
    words = [
        f"{d.name} {d.type} {d.flags} {sizes.by_map.get(d.name, d.max_entries)} "
        f"{btf.describe(d.key_type)} {btf.describe(d.value_type)}"
        for d in opened.definitions().values()
    ]
    return hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()[:_DIGITS]


def _pinned(generation: Path, at: Path) -> Loaded | None:
    """What a former agent left, if it is whole."""
    maps: dict[str, libbpf.Map] = {}
    programs: dict[str, libbpf.Program] = {}
    try:
        for name in (*layout.LAYOUTS, layout.UPCALLS, layout.SAMPLES, layout.CONNECTION_EVENTS, layout.PROGRAMS):
            maps[name] = libbpf.Map.of(name, libbpf.pinned(generation / name))
        for name in PROGRAMS:
            programs[name] = libbpf.Program.of(name, libbpf.pinned(at / name))
    except FileNotFoundError:
        libbpf.close_all(maps, programs)
        return None
    return Loaded(maps, programs, generation, at)


def _pin_programs(programs: Mapping[str, libbpf.Program], at: Path) -> None:
    """All of them, or, after a crash, none under the name that counts."""
    half = at.with_name(f"new-{at.name}")
    bpffs.remove(half)
    bpffs.remove(at)
    half.mkdir()
    for name, program in programs.items():
        libbpf.pin(program.fd, half / name)
    half.rename(at)
