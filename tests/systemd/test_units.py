"""The units under a real systemd: as the README installs them, with all their sandboxing, on a machine of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from polling import eventually
from systemd.machine import Machine, machine

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("systemd")]

WEFT = "/opt/weft/bin/weft"
SOCKET = "unix:///run/weft-controller/controller.sock"

OBJECTS = """
- name: provider-networks/dc1
  spec: {pools: [{prefix: 192.0.2.0/24}], mtu_bytes: 1600}
- name: hosts/node-a
  spec: {uplinks: [{interface: up0, provider_network: dc1, pas: [192.0.2.11]}]}
- name: tenants/blue
- name: tenants/blue/routing-domains/prod
- name: tenants/blue/routing-domains/prod/virtual-subnets/web
  spec: {prefixes: [10.0.0.0/24]}
- name: tenants/blue/ports/one
  spec: {virtual_subnet: prod/web, host: node-a, addresses: [10.0.0.11]}
- name: tenants/blue/ports/two
  spec: {virtual_subnet: prod/web, host: node-a, addresses: [10.0.0.12]}
"""

#: Guests in namespaces, behind interfaces that are named as the agent looks for them; MACs are the ports' own.
GUESTS = """
ip link add up0 mtu 1600 type dummy && ip addr add 192.0.2.11/24 dev up0 && ip link set up0 up
for each in one:11 two:12; do
  guest=${each%:*}
  ip netns add $guest
  ip link add tap$guest type veth peer name eth0 netns $guest && ip link set tap$guest up
  ip -n $guest addr add 10.0.0.${each#*:}/24 dev eth0
done
"""

CERTIFICATES = """
cd /root && mkdir pki && cd pki
weft=/opt/weft/bin/weft
$weft ca init ca
$weft ca issue ca controller/c1 --address 127.0.0.1
cd ca
install -m 0640 -g weft-controller ca.crt hosts.crt hosts.key controllers/c1.crt controllers/c1.key /etc/weft/tls/
chgrp weft-controller /etc/weft/tls && chmod 750 /etc/weft/tls
"""

CONTROLLER = """
WEFT_LISTEN=https://127.0.0.1:8640 unix:///run/weft-controller/controller.sock
WEFT_CERTIFICATE=/etc/weft/tls/c1.crt
WEFT_KEY=/etc/weft/tls/c1.key
WEFT_CA=/etc/weft/tls/ca.crt
WEFT_ISSUER_CERTIFICATE=/etc/weft/tls/hosts.crt
WEFT_ISSUER_KEY=/etc/weft/tls/hosts.key
"""


ASK = """
import httpx2, sys
answer = httpx2.Client(transport=httpx2.HTTPTransport(uds=sys.argv[1])).get(sys.argv[2])
answer.raise_for_status()
print(answer.text)
"""


def weft(on: Machine, *words: str) -> str:
    return on.run("env", f"WEFT_CONTROLLER={SOCKET}", WEFT, *words)


def asked(on: Machine, socket: str, path: str) -> str:
    return on.run("/opt/weft/bin/python", "-c", ASK, socket, f"http://weft{path}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Both units are started, by the README's steps; two guests reach each other."""
    with machine(tmp_path_factory.mktemp("systemd")) as on:
        on.shell(CERTIFICATES)
        on.write("/etc/weft/controller.env", CONTROLLER)
        on.run("systemctl", "start", "weft-controller")  # returns when it is ready
        on.write("/root/objects.yaml", OBJECTS)
        weft(on, "apply", "-f", "/root/objects.yaml")
        token = weft(on, "host", "token", "node-a").split()[-1]
        on.shell("install -m 0600 /dev/null /etc/weft/agent.env")
        on.write(
            "/etc/weft/agent.env", f"WEFT_HOST=node-a\nWEFT_CONTROLLER=https://127.0.0.1:8640\nWEFT_JOIN={token}\n"
        )
        on.write("/root/ca.crt", on.run("cat", "/etc/weft/tls/ca.crt"))
        on.shell(GUESTS)
        for guest in ("one", "two"):
            mac = re.search(r"mac: (\S+)", weft(on, "get", f"blue/{guest}", "-o", "yaml"))
            assert mac
            on.shell(f"ip -n {guest} link set eth0 address {mac[1]} && ip -n {guest} link set eth0 up")
        on.run("systemctl", "start", "weft-agent")
        eventually(lambda: reaches(on), "guests reach each other", every_s=0.1)
        yield on


def reaches(on: Machine) -> bool:
    return on.tried("ip", "netns", "exec", "one", "ping", "-c", "1", "-W", "1", "10.0.0.12").returncode == 0


def main_pid(on: Machine, unit: str) -> str:
    return on.shows(unit)["MainPID"]


def test_units_are_ready_when_they_say_so(installed: Machine) -> None:
    for unit in ("weft-controller", "weft-agent"):
        # It returns when the unit answers: not a moment is waited here.
        installed.run("systemctl", "restart", unit)
        if unit == "weft-controller":
            assert '"status":"ok"' in asked(installed, "/run/weft-controller/controller.sock", "/healthz")
        else:
            assert "tenants/blue/ports/one" in asked(installed, "/run/weft/agent.sock", "/status")
        shown = installed.shows(unit)
        assert (shown["Type"], shown["ActiveState"], shown["SubState"]) == ("notify", "active", "running")
        assert (shown["NRestarts"], shown["Slice"]) == ("0", "weft.slice")
    warned = installed.run("systemd-analyze", "verify", "weft-controller.service", "weft-agent.service")
    assert warned == ""


def test_the_units_hold_processes_to_what_they_say(installed: Machine) -> None:
    controller = installed.status(main_pid(installed, "weft-controller"))
    assert {controller["CapEff"], controller["CapBnd"]} == {"0" * 16}
    assert installed.shows("weft-controller")["User"] == "weft-controller"
    assert controller["Uid"].split()[0] != "0"
    agent = installed.status(main_pid(installed, "weft-agent"))
    # DAC_OVERRIDE 1, NET_ADMIN 12, NET_RAW 13, SYS_ADMIN 21, PERFMON 38, BPF 39
    assert int(agent["CapEff"], 16) == sum(1 << number for number in (1, 12, 13, 21, 38, 39))
    for of in (controller, agent):
        assert (of["NoNewPrivs"], of["Seccomp"]) == ("1", "2")
    # What is not theirs is not there, or not to be written.
    tried = installed.tried("nsenter", "-t", main_pid(installed, "weft-controller"), "-m", "touch", "/etc/weft/there")
    assert "Read-only file system" in tried.stderr
    assert installed.tried("nsenter", "-t", main_pid(installed, "weft-agent"), "-m", "ls", "/root").stdout == ""
    # What hosts are told, and what rules log, is root's to read; so is whatever the agent writes.
    assert installed.run("stat", "-c", "%a %U", "/var/lib/weft/agent").strip() == "700 root"
    modes = installed.run("find", "/var/lib/weft/agent", "-type", "f", "-perm", "/027")
    assert modes == ""


def test_both_are_killed_and_come_back_and_not_a_packet_is_lost(installed: Machine) -> None:
    before = {unit: installed.shows(unit) for unit in ("weft-agent", "weft-controller")}
    installed.shell("ip netns exec one ping -i 0.02 -c 400 -q 10.0.0.12 >/run/ping 2>&1 & echo")
    for unit, was in before.items():
        installed.run("systemctl", "kill", "--signal=KILL", unit)
        eventually(lambda unit=unit, was=was: came_back(installed, unit, was), f"{unit} is back")
    counted = eventually(
        lambda: re.search(r"(\d+) packets transmitted, (\d+) received", installed.run("cat", "/run/ping")),
        "the ping ends",
        every_s=0.1,
    )
    assert counted[1] == counted[2] == "400"
    eventually(lambda: re.search(r"node-a\s.*connected", weft(installed, "get", "hosts")), "the host is seen")


def came_back(on: Machine, unit: str, was: dict[str, str]) -> bool:
    now = on.shows(unit)
    return now["ActiveState"] == "active" and now["MainPID"] != was["MainPID"] and now["NRestarts"] > was["NRestarts"]


def test_certificates_are_replaced_while_the_units_run(installed: Machine) -> None:
    pid = main_pid(installed, "weft-controller")
    before = expiry(installed)
    installed.shell(
        f"cd /root/pki && {WEFT} ca renew ca --within-days 100000 >/dev/null && "
        "install -m 0640 -g weft-controller ca/controllers/c1.crt ca/controllers/c1.key /etc/weft/tls/"
    )
    eventually(lambda: expiry(installed) > before, "the new certificate is in use", every_s=0.1)
    assert main_pid(installed, "weft-controller") == pid
    assert "certificates were replaced" in installed.run("journalctl", "--no-pager", "-u", "weft-controller")


def expiry(on: Machine) -> float:
    metrics = asked(on, "/run/weft-controller/controller.sock", "/metrics")
    found = re.search(r'weft_certificate_expiry_timestamp_seconds\{certificate="server"\} (\S+)', metrics)
    assert found, metrics
    return float(found[1])


def test_stopping_is_quick_and_clean_and_traffic_goes_on(installed: Machine) -> None:
    installed.run("systemctl", "stop", "weft-agent", "weft-controller")
    for unit in ("weft-agent", "weft-controller"):
        shown = installed.shows(unit)
        assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
    assert reaches(installed)
    # With no controller at all the host starts by itself, and is ready.
    installed.run("systemctl", "start", "weft-agent")
    assert "tenants/blue/ports/one" in asked(installed, "/run/weft/agent.sock", "/status")
    assert reaches(installed)
    installed.run("systemctl", "start", "weft-controller")


def test_no_directory_of_the_machine_itself_has_changed(installed: Machine) -> None:
    """What a unit wrote is on the machine of the test, and not on this one."""
    assert not Path("/etc/systemd/system/weft-agent.service").exists()
    assert "weft-agent.service" in installed.run("ls", "/etc/systemd/system")
