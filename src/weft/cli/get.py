"""weft get and weft describe: what there is, and what of it hangs together. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from weft.cli import complete, references, session, show
from weft.cli.references import short
from weft.cli.session import Output
from weft.model.names import Kind, domain_of, find_kind, group_of, kind_of, label_of

if TYPE_CHECKING:
    from weft.client import Client, Item


def subnet_rule(item: Item) -> str:
    """A subnet's rule, and while hosts go over to it the one that they send by and whom this waits for."""
    rule, change = item.spec.get("rule", ""), item.spec.get("rule_change")
    if not change:
        return str(rule)
    phase, waiting = item.status.get("rule_phase"), item.status.get("waiting_for", [])
    whom = f", waiting for {'; '.join(map(str, waiting))}" if waiting else ""
    return f"{change.get('sending')} -> {rule}: {phase}{whom}"


def port_host(item: Item) -> str:
    """Where a port is, and while it moves where to and whom this waits for."""
    host, to, move = item.spec.get("host"), item.spec.get("destination"), item.status.get("move")
    if to is None or move is None:
        return short(host or "")
    how = "ready" if move["ready"] else "; ".join(map(str, move["waiting_for"]))
    return f"{short(host or '')} -> {short(to)}: {how}"


def rule_protocol(spec: dict[str, Any]) -> str:
    """tcp 80-81, icmp 3/4, any."""
    protocol = str(spec.get("protocol") or "any")
    first, last = spec.get("port_min"), spec.get("port_max")
    if first is not None:
        return f"{protocol} {first}" if first == last else f"{protocol} {first}-{last}"
    numbers = [str(spec[field]) for field in ("icmp_type", "icmp_code") if spec.get(field) is not None]
    return f"{protocol} {'/'.join(numbers)}" if numbers else protocol


def rule_remote(spec: dict[str, Any]) -> str:
    given = (spec.get(field) for field in ("remote_prefix", "remote_group", "remote_address_group"))
    return next((short(remote) for remote in given if remote), "anybody")


def rule_action(spec: dict[str, Any]) -> str:
    """An operator's rule has a priority, which is to be seen."""
    action, priority = str(spec.get("action", "allow")), spec.get("priority")
    return f"{action}, priority {priority}" if priority else action


#: Columns of a kind's table: heading -> what an item has there.
COLUMNS: dict[Kind, dict[str, Callable[[Item], object]]] = {
    Kind.TENANT: {"description": lambda item: item.spec.get("description")},
    Kind.PROVIDER_NETWORK: {
        "pools": lambda item: [pool.get("prefix") for pool in item.spec.get("pools", [])],
        "mtu": lambda item: item.spec.get("mtu_bytes"),
    },
    Kind.HOST: {
        "pas": lambda item: [pa for uplink in item.spec.get("uplinks", []) for pa in uplink.get("pas") or []],
        "data plane": lambda item: item.spec.get("data_plane"),
        "state": lambda item: item.status.get("state", "unknown"),
        "applied": lambda item: item.status.get("applied_revision"),
    },
    Kind.ROUTING_DOMAIN: {"rdid": lambda item: item.spec.get("rdid")},
    Kind.VIRTUAL_SUBNET: {
        "vsid": lambda item: item.spec.get("vsid"),
        "prefixes": lambda item: item.spec.get("prefixes"),
        "gateways": lambda item: item.spec.get("gateways"),
        "rule": subnet_rule,
    },
    Kind.PORT: {
        "subnet": lambda item: short(item.spec.get("virtual_subnet", "")),
        "mac": lambda item: item.spec.get("mac"),
        "addresses": lambda item: item.spec.get("addresses"),
        "announced": lambda item: [said.get("address") for said in item.spec.get("announced_addresses", [])],
        "host": port_host,
        "state": lambda item: port_state(item.status),
    },
    Kind.ADDRESS_GROUP: {"prefixes": lambda item: item.spec.get("prefixes")},
    Kind.SECURITY_GROUP: {
        "stateful": lambda item: item.spec.get("stateful"),
        "operator": lambda item: item.spec.get("operator", False),
    },
    Kind.SECURITY_GROUP_RULE: {
        "direction": lambda item: item.spec.get("direction"),
        "family": lambda item: item.spec.get("family"),
        "protocol": lambda item: rule_protocol(item.spec),
        "remote": lambda item: rule_remote(item.spec),
        "action": lambda item: rule_action(item.spec),
    },
    Kind.CUSTOMER_ROUTE: {
        "prefix": lambda item: item.spec.get("prefix"),
        "next hop": lambda item: item.spec.get("next_hop") or short(item.spec.get("virtual_subnet", "")),
        "metric": lambda item: item.spec.get("metric"),
    },
}


def port_state(status: dict[str, Any]) -> str:
    state, reason = status.get("state", "unknown"), status.get("reason")
    return f"{state}: {reason}" if reason else state


@click.command()
@click.argument(
    "words", nargs=-1, required=True, metavar="KIND|NAME [NAME...] [FIELD=VALUE...]",
    shell_complete=complete.kinds_and_names,
)  # fmt: skip
@session.with_output(Output.YAML, Output.NAME)
@session.with_controller
def get(words: tuple[str, ...], output: Output, url: str) -> None:
    """List objects of a kind, or show some by name.

    \b
    weft get ports                         every port
    weft get ports tenant=blue host=h1     blue's ports on h1
    weft get subnets tenant=blue domain=prod
    weft get rules tenant=blue group=web   the rules of one security group
    weft get port blue/web-1 blue/web-2    these two
    weft get blue/web-1 -o yaml            a port, as `weft apply` reads it

    A filter is tenant=, domain=, group=, or a field of the kind's spec, such as host= or virtual_subnet=.
    """
    kind = references.kind(words[0])
    rest = words[1:] if kind else words
    filters = dict(_filter(word) for word in rest if "=" in word)
    names = [references.full(word, kind) for word in rest if "=" not in word]
    if names and filters:
        raise click.UsageError("filters narrow down a list; with names there is nothing to narrow down")
    with session.controller(url) as client, session.busy("asking the controller"):
        if names:
            items = [client.get(name) for name in names]
        elif kind is None:
            raise click.UsageError(f"{words[0]!r} is no kind; there are {', '.join(map(references.plural, Kind))}")
        else:
            items = list(_listed(client, kind, filters))
    show_items(items, output, single=bool(names) and len(names) == 1)


def _filter(word: str) -> tuple[str, str]:
    field, _, value = word.partition("=")
    if not field or not value:
        raise click.UsageError(f"{word!r} is no filter such as host=h1")
    return field.replace("-", "_"), value


def _listed(client: Client, kind: Kind, filters: dict[str, str]) -> Iterator[Item]:
    above = {"tenant": "tenants/", "domain": "routing-domains/", "group": "security-groups/"}
    rest = {field: value for field, value in filters.items() if field not in above}
    path = references.collection(kind, *(filters.get(field) for field in above))
    if any(field in filters and segment not in path for field, segment in above.items()):
        raise click.UsageError(f"{references.plural(kind)} cannot be narrowed down so")
    return client.list(path, limit=1000, **rest)


def plain_item(item: Item) -> dict[str, Any]:
    return {"name": item.name, "kind": item.kind, "revision": item.revision, "spec": item.spec, "status": item.status}


def show_items(items: list[Item], output: Output, *, single: bool) -> None:
    plain = [plain_item(item) for item in items]
    match output:
        case Output.JSON:
            show.as_json(plain[0] if single else {"items": plain})
        case Output.YAML:
            show.as_yaml(plain[0] if single else plain)
        case Output.NAME:
            for item in items:
                click.echo(item.name)
        case Output.TABLE:
            for kind in sorted({kind_of(item.name) for item in items}, key=list(Kind).index):
                _table(kind, (item for item in items if find_kind(item.name) is kind))
            if not items:
                show.table([], [])


def _table(kind: Kind, items: Iterable[Item]) -> None:
    columns = COLUMNS[kind]
    rows = [[short(item.name), *(read(item) for read in columns.values())] for item in items]
    show.table([kind.value, *columns], rows)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[KIND] NAME", shell_complete=complete.kinds_and_names)
@session.with_output(Output.YAML)
@session.with_controller
def describe(words: tuple[str, ...], output: Output, url: str) -> None:
    """Show one object: its spec, its status, and what belongs to it.

    \b
    weft describe blue/web-1
    weft describe host h1
    """
    kind = references.kind(words[0]) if len(words) > 1 else None
    if len(words) != (2 if kind else 1):
        raise click.UsageError("describe takes one object, such as blue/web-1 or: host h1")
    name = references.full(words[-1], kind)
    with session.controller(url) as client:
        item = client.get(name)
        related = {heading: list(found) for heading, found in _related(client, item)}
    document = {
        **plain_item(item),
        "related": {heading: [each.name for each in found] for heading, found in related.items()},
    }

    def drawn() -> None:
        click.echo(click.style(f"{item.kind} {short(item.name)}", bold=True) + f"  revision {item.revision}")
        click.echo(f"\nspec\n{_indented(item.spec)}\nstatus\n{_indented(item.status)}")
        for heading, found in related.items():
            click.echo(f"\n{heading}")
            _table(kind_of(found[0].name), found) if found else click.echo("  none")

    show.as_asked(document, output, drawn)


def _indented(value: dict[str, Any]) -> str:
    lines = show.yaml_text(value).splitlines() if value else ["-"]
    return "\n".join(f"  {line}" for line in lines)


def _provider_networks(host: Item) -> set[str]:
    return {references.full(each["provider_network"], Kind.PROVIDER_NETWORK) for each in host.spec.get("uplinks", [])}


def _groups(port: Item) -> list[str]:
    return [*port.spec.get("security_groups", []), *port.spec.get("operator_groups", [])]


def _related(client: Client, item: Item) -> Iterator[tuple[str, Iterable[Item]]]:
    """What the object rests on and what rests on it."""
    name = references.full(item.name)
    match kind_of(name):
        case Kind.TENANT:
            tenant = label_of(name)
            for kind in (Kind.ROUTING_DOMAIN, Kind.VIRTUAL_SUBNET, Kind.SECURITY_GROUP, Kind.ADDRESS_GROUP, Kind.PORT):
                yield references.plural(kind), client.list(references.collection(kind, tenant))
        case Kind.PROVIDER_NETWORK:
            hosts = client.list(references.collection(Kind.HOST))
            yield "hosts", [host for host in hosts if name in _provider_networks(host)]
        case Kind.HOST:
            yield "ports", client.list(references.collection(Kind.PORT), host=name)
        case Kind.ROUTING_DOMAIN:
            _, tenant, _, domain = name.split("/")
            for kind in (Kind.VIRTUAL_SUBNET, Kind.CUSTOMER_ROUTE):
                yield references.plural(kind), client.list(references.collection(kind, tenant, domain))
        case Kind.VIRTUAL_SUBNET:
            yield "routing domain", [client.get(domain_of(name))]
            yield "ports", client.list(references.collection(Kind.PORT, name.split("/")[1]), virtual_subnet=name)
        case Kind.SECURITY_GROUP:
            tenant = name.split("/")[1]
            yield "rules", client.list(f"{name}/rules")
            ports = client.list(references.collection(Kind.PORT, tenant))
            yield "ports", [port for port in ports if name in _groups(port)]
        case Kind.ADDRESS_GROUP:
            rules = client.list(f"tenants/{name.split('/')[1]}/security-groups/-/rules")
            yield "rules", [rule for rule in rules if rule.spec.get("remote_address_group") == name]
        case Kind.SECURITY_GROUP_RULE:
            yield "security group", [client.get(group_of(name))]
        case Kind.PORT:
            yield "virtual subnet", [client.get(item.spec["virtual_subnet"])]
            yield "security groups", [client.get(group) for group in _groups(item)]
            if host := item.spec.get("host"):
                yield "host", [client.get(host)]
        case Kind.CUSTOMER_ROUTE:
            yield "routing domain", [client.get(domain_of(name))]
