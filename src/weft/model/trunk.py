"""Sub-ports: ports that are behind another port's interface, each by a VLAN of its own. A sub-port is never apart from
its parent: it is on the parent's host, and moves when the parent does.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from weft.kit.errors import Conflict, Rejected
from weft.model import drafts, objects
from weft.model.features import AbilityTable, Feature
from weft.model.indexes import Indexes
from weft.model.names import Kind, Name, resolve, tenant_of
from weft.model.objects import Host, Port
from weft.model.puts import Put, read
from weft.model.values import parse_vlan

_Put = Put[drafts.Port, Port]


def followers(ix: Indexes, puts: Iterable[_Put], going: Container[Name]) -> Iterator[_Put]:
    """Puts of the sub-ports that a batch leaves alone while their parents go elsewhere. ix: before the batch."""
    if not ix.trunks:
        return
    puts = tuple(puts)
    put_too = {put.name for put in puts}
    for put in puts:
        subports = ix.trunks.get(put.name)
        if not subports or put.old is None or _hosts_of(put.draft) == (put.old.host, put.old.destination):
            continue
        for name in subports.values():
            if name not in put_too and name not in going:
                old = ix.ports[name]
                yield Put(put.rank, name, _as_it_was(old), old)


def placed(ix: Indexes, puts: Sequence[_Put]) -> Sequence[_Put]:
    """The same puts, sub-ports where their parents are. ix: without what the batch puts."""
    if not any(put.draft.trunk is not None or put.name in ix.trunks for put in puts):
        return puts
    by_name = {put.name: put for put in puts}
    claimed: dict[tuple[Name, int], Name] = {}
    found = []
    for put in puts:
        try:
            found.append(_placed(ix, put, by_name, claimed))
        except Rejected as fault:
            raise fault.at(put.field) from None
    return found


def _placed(ix: Indexes, put: _Put, puts: dict[Name, _Put], claimed: dict[tuple[Name, int], Name]) -> _Put:
    if put.draft.trunk is None:
        return put
    if put.name in ix.trunks:
        holder = next(iter(ix.trunks[put.name].values()))
        raise Conflict(f"{put.name} is the parent of {holder}; a sub-port is no parent", "spec.trunk")
    trunk = resolved(put.draft.trunk, put.name)
    parent = puts[trunk.parent].draft if trunk.parent in puts else ix.ports.get(trunk.parent)
    if parent is None:
        raise Rejected(f"{trunk.parent} does not exist", "spec.trunk.parent")
    if tenant_of(trunk.parent) != tenant_of(put.name):
        raise Rejected(f"{trunk.parent} is another tenant's; a sub-port's parent is of its own", "spec.trunk.parent")
    if trunk.parent == put.name or parent.trunk is not None:
        raise Rejected(f"{trunk.parent} is a sub-port itself; a parent has an interface", "spec.trunk.parent")
    holder_ = claimed.get((trunk.parent, trunk.vlan)) or ix.trunks.get(trunk.parent, {}).get(trunk.vlan)
    if holder_ is not None:
        raise Conflict(f"VLAN {trunk.vlan} of {trunk.parent} is {holder_}'s", "spec.trunk.vlan")
    if put.draft.mirror is not None or put.draft.sampling_rate is not None:
        field = "mirror" if put.draft.mirror is not None else "sampling_rate"
        raise Rejected("samples and mirrors are an interface's: say it of the parent", f"spec.{field}")
    claimed[trunk.parent, trunk.vlan] = put.name
    host, destination = parent.host, parent.destination
    for field, given, right in (("host", put.draft.host, host), ("destination", put.draft.destination, destination)):
        if given is not None and (right is None or _host(given) != _host(right)):
            where = f"on {right}" if field == "host" else f"moving to {right}"
            told = f"{trunk.parent} is {where if right is not None else 'not'}"
            raise Rejected(f"a sub-port goes where its parent goes, and {told}: leave it out", f"spec.{field}")
    return replace(put, draft=replace(put.draft, host=host, destination=destination))


def resolved(draft: drafts.Trunk, name: Name) -> objects.Trunk:
    parent = read("spec.trunk.parent", lambda text: resolve(Kind.PORT, text, name), draft.parent)
    if draft.vlan == 0:
        raise Rejected("VLAN 0 is none: a sub-port's is in 1..4094", "spec.trunk.vlan")
    return objects.Trunk(parent, read("spec.trunk.vlan", parse_vlan, draft.vlan))


def draft(of: objects.Trunk | None) -> drafts.Trunk | None:
    """What would make the same."""
    return None if of is None else drafts.Trunk(of.parent, of.vlan)


def why_not_on(host: Host, abilities: AbilityTable) -> str | None:
    """Why a host can have no sub-ports; None: it can."""
    if Feature.TRUNK in abilities[host.data_plane].features:
        return None
    return f"{host.name} has data plane {host.data_plane}, which lacks {Feature.TRUNK}"


def _hosts_of(draft: drafts.Port) -> tuple[str | None, str | None]:
    return _host(draft.host), _host(draft.destination)


def _host(text: str | None) -> str | None:
    """The host that is meant; what means none is refused where hosts are looked up."""
    try:
        return None if text is None else resolve(Kind.HOST, text)
    except Rejected:
        return text


def _as_it_was(port: Port) -> drafts.Port:
    """What changes nothing, but that it goes where its parent goes."""
    return drafts.Port(port.name, port.virtual_subnet, flood_limit_pps=port.flood_limit_pps, trunk=draft(port.trunk))
