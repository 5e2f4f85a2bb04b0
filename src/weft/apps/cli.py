"""The command line `weft`: which commands there are, and where. Decides nothing itself."""

from __future__ import annotations

import click

from weft.cli.lazy import Lazy, LazyCommands

#: By module path, as click's own LazyGroup: each command's imports are paid for when it runs, and the lab, which is
#: built on top of these programs, is reached without this module importing it.
COMMANDS = {
    "apply": Lazy("weft.cli.apply:apply", "Make objects as files say: create and update, all or nothing."),
    "get": Lazy("weft.cli.get:get", "List objects of a kind, or show some by name."),
    "describe": Lazy("weft.cli.get:describe", "Show one object: its spec, its status, and what belongs to it."),
    "delete": Lazy("weft.cli.apply:delete", "Delete objects by name, all or nothing."),
    "port": Lazy("weft.cli.port:port", "Ports: move them from host to host, see their connections."),
    "trace": Lazy("weft.cli.trace:trace", "Follow a packet from a port to its end, or to its drop reason."),
    "status": Lazy(
        "weft.cli.status:status", "Show the controller, the hosts, how many ports are active, and what was dropped."
    ),
    "attach": Lazy("weft.cli.host:attach", "Tell this host's agent which interface is a port's."),
    "detach": Lazy("weft.cli.host:detach", "Take back an attachment made by hand."),
    "counters": Lazy("weft.cli.host:counters", "Show this host's traffic by port and uplink, and its drops by reason."),
    "denials": Lazy(
        "weft.cli.host:denials", "Show what security groups have not let pass on this host, and by which rule."
    ),
    "hits": Lazy("weft.cli.host:hits", "Show how often each rule of a security group has decided on this host."),
    "heard": Lazy("weft.cli.host:heard", "Show the machines that this host has heard in VLANs behind its uplinks."),
    "conntrack": Lazy("weft.cli.conntrack:conntrack", "Connections of this host's ports: list, flush, watch."),
    "controller": Lazy("weft.apps.services:controller", "Run the controller."),
    "agent": Lazy("weft.apps.services:agent", "Run the agent of a host."),
    "store": Lazy("weft.cli.store:store", "Back up a store, restore it, and move from SQLite to etcd and back."),
    "host": Lazy("weft.cli.hosts:host", "Let hosts join, and call back their certificates."),
    "token": Lazy("weft.cli.access:token", "Tokens by which users show who they are."),
    "quota": Lazy("weft.cli.access:quota", "How many objects a tenant may have."),
    "audit": Lazy("weft.cli.access:audit", "Who did what, from where."),
    "whoami": Lazy("weft.cli.access:whoami", "Show who you are to the controller."),
    "ca": Lazy("weft.cli.ca:ca", "Make and renew the certificates of a deployment."),
    "lab": Lazy("weft.lab.commands:lab", "A whole data centre on this machine, in network namespaces."),
    "completion": Lazy("weft.cli.completion:completion", "Print the completion script of a shell."),
}


@click.group(cls=LazyCommands, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="weft", prog_name="weft")
def main() -> None:
    """Weft: many tenants' networks on one physical network.

    Names: tenants/blue/ports/web-1 in full, or blue/web-1 for a port, blue/prod/web for a virtual subnet, h1 where a
    host is meant. Kinds: singular, plural or short (port, ports, p; subnets, vs; domains, rd; ...).
    """


if __name__ == "__main__":
    main()
