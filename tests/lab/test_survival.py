"""What is killed, cut off or tampered with does not stop traffic, and comes back as it was."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from lab.scenes import address
from polling import eventually
from weft.lab import plan, shell
from weft.lab.lab import Lab
from weft.lab.traffic import Question, Responders, Stream, who_answers


@pytest.fixture(autouse=True)
def _mended(lab: Lab) -> Iterator[None]:
    """What a scenario has killed runs again when it is over, however it ended."""
    yield
    lab.mend()


def flowing(stream: Stream, more: int = 300) -> None:
    """So many more have arrived."""
    until = len(stream.received) + more
    eventually(lambda: len(stream.received) >= until, f"{more} more packets")


@pytest.mark.parametrize("host", ["h1", "h2"])  # the sender's, the receiver's
def test_an_agent_that_is_killed_and_started_again_costs_not_one_packet(lab: Lab, host: str) -> None:
    source, target = lab.guest("blue/web-1"), lab.guest("blue/web-2")
    with Stream(source, target, address(target)) as stream:
        flowing(stream)
        lab.kill(f"agent:{host}", signal.SIGKILL)
        flowing(stream)
        lab.mend()
        flowing(stream)
        stream.stop()
    assert stream.lost <= stream.crowded_out, f"{stream.lost} of {stream.sent} lost"


def test_an_agent_that_is_killed_again_and_again_while_it_starts_costs_not_one_packet(lab: Lab) -> None:
    source, target = lab.guest("blue/db-2"), lab.guest("blue/db-1")
    with Stream(source, target, address(target, 6)) as stream:
        for packets in (50, 150, 400):
            lab.kill("agent:h1", signal.SIGKILL)
            lab.start_agent("h1")
            flowing(stream, packets)  # so it dies at another point of its start
        lab.mend()
        stream.stop()
    assert stream.lost <= stream.crowded_out, f"{stream.lost} of {stream.sent} lost"


def test_a_controller_that_is_killed_stops_no_traffic_and_forgets_nothing(lab: Lab) -> None:
    source, target = lab.guest("red/web-1"), lab.guest("red/web-2")
    with lab.client() as client:
        written = client.put("tenants/survivor", {"description": "answered before the kill"})
    with Stream(source, target, address(target)) as stream:
        flowing(stream)
        lab.kill("controller", signal.SIGKILL)
        flowing(stream)
        lab.mend()
        stream.stop()
    assert stream.lost <= stream.crowded_out, f"{stream.lost} of {stream.sent} lost"
    with lab.client() as client:
        try:
            assert client.get("tenants/survivor").spec == written.spec
        finally:
            client.delete("tenants/survivor")


def filters(namespace: str) -> dict[str, int]:
    """How many of ours each interface has: where there is no TCX (before Linux 6.6), and so nothing pinned."""

    def tc(*words: str) -> str:
        return subprocess.run(["tc", "-n", namespace, *words], capture_output=True, text=True, check=True).stdout

    devices = [each["dev"] for each in json.loads(tc("-j", "qdisc", "show") or "[]") if each["kind"] == "clsact"]
    shown = {device: [tc("filter", "show", "dev", device, way) for way in ("ingress", "egress")] for device in devices}
    return {device: sum(text.count(" weft:") for text in texts) for device, texts in shown.items()}


def remove_filters(namespace: str) -> None:
    for device in filters(namespace):
        subprocess.run(["tc", "-n", namespace, "qdisc", "del", "dev", device, "clsact"], check=True)


def test_an_agent_starts_without_a_controller_and_serves_what_it_last_knew(lab: Lab, responders: Responders) -> None:
    """Also after a reboot, when nothing is in the kernel any more: its pins are taken away."""
    peer = lab.guest("blue/db-1")
    asked = Question(lab.guest("blue/web-1").namespace, address(peer), peer.port)
    lab.kill("controller", signal.SIGKILL)
    lab.kill("agent:h3", signal.SIGKILL)
    shell.remove_tree(lab.paths.pins / "h3")
    remove_filters(plan.host_namespace(lab.spec.name, "h3"))
    # The kernel lets go of what is pinned nowhere a moment later.
    eventually(lambda: who_answers([Question(asked.namespace, asked.address)], silence_s=0.3) == [None])
    lab.start_agent("h3")
    eventually(lambda: who_answers([asked]) == [peer.port])


def test_a_change_made_while_an_agent_was_dead_is_carried_out_when_it_is_back(lab: Lab, responders: Responders) -> None:
    guest = lab.guest("blue/db-1")
    asked = Question(lab.guest("blue/web-1").namespace, address(guest))
    lab.kill("agent:h3", signal.SIGKILL)
    with lab.client() as client:
        try:
            client.patch(guest.port, {"admin_state": "down"})
            lab.start_agent("h3")
            eventually(lambda: who_answers([asked], silence_s=0.3) == [None])
        finally:
            client.patch(guest.port, {"admin_state": "up"})


def bpftool(*arguments: str) -> str:
    done = subprocess.run(["bpftool", "-j", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records_map(lab: Lab, host: str) -> str:
    found = [path for path in (lab.paths.pins / host).rglob("records") if path.is_file()]
    assert len(found) == 1, found
    return str(found[0])


def keys(pinned: str) -> list[list[str]]:
    return [entry["key"] for entry in json.loads(bpftool("map", "dump", "pinned", pinned))]


@pytest.mark.parametrize("harm", ["deleted", "changed"])
def test_a_map_entry_that_is_harmed_by_hand_is_back_within_ten_seconds(
    lab: Lab, responders: Responders, harm: str
) -> None:
    pinned = records_map(lab, "h1")
    before = json.loads(bpftool("map", "dump", "pinned", pinned))
    for entry in before:
        if harm == "deleted":
            bpftool("map", "delete", "pinned", pinned, "key", *entry["key"])
        else:
            bpftool("map", "update", "pinned", pinned, "key", *entry["key"], "value", *["0x01"] * len(entry["value"]))

    def healed() -> bool:
        now = {tuple(each["key"]): each["value"] for each in json.loads(bpftool("map", "dump", "pinned", pinned))}
        return now == {tuple(each["key"]): each["value"] for each in before}

    eventually(healed, "the records are as they were", every_s=0.1)
    # A guest that asked in between was told a wrong MAC, and would believe it for half a minute.
    for guest in lab.guests.values():
        lab.exec(guest.port, "ip", "neighbour", "flush", "dev", "eth0")
    peer = lab.guest("blue/web-2")
    asked = Question(lab.guest("blue/web-1").namespace, address(peer), peer.port)
    assert who_answers([asked]) == [peer.port]


def test_an_entry_that_is_added_by_hand_is_gone_within_ten_seconds(lab: Lab) -> None:
    pinned = records_map(lab, "h1")
    [first, *_] = json.loads(bpftool("map", "dump", "pinned", pinned))
    stranger = [*first["key"][:-1], f"0x{(int(first['key'][-1], 0) ^ 0x55):02x}"]
    assert stranger not in keys(pinned)
    bpftool("map", "update", "pinned", pinned, "key", *stranger, "value", *first["value"])
    eventually(lambda: stranger not in keys(pinned), every_s=0.1)


def test_a_guests_interface_that_goes_and_comes_back_is_bound_again(lab: Lab, responders: Responders) -> None:
    """As a virtual machine that is stopped and started: another interface of the same name."""
    guest = lab.guest("blue/db-2")
    namespace = plan.host_namespace(lab.spec.name, guest.host)
    shell.run([plan.DeleteLink(namespace, guest.interface)])
    with lab.client() as client:
        eventually(lambda: client.get(guest.port).status["state"] == "down")
    shell.run(plan.arrival_steps(lab.spec.name, guest))
    shell.run([*plan.handover_steps(guest)[1:]])  # its former eth0 went with the other end
    lab.mend()
    asked = Question(lab.guest("blue/web-1").namespace, address(guest), guest.port)
    assert who_answers([asked]) == [guest.port]


def test_a_program_that_is_detached_by_hand_is_attached_again(lab: Lab, responders: Responders) -> None:
    guest = lab.guest("blue/web-3")
    links = [
        path for path in (lab.paths.pins / "h1").rglob("*") if path.is_file() and path.parent.parent.name == "links"
    ]
    namespace = plan.host_namespace(lab.spec.name, "h1")
    before = filters(namespace)
    assert links or before
    for path in links:
        path.unlink()
    remove_filters(namespace)

    def attached() -> bool:
        return all(path.exists() for path in links) and filters(namespace) == before

    eventually(attached, "the programs are attached again", every_s=0.1)
    asked = Question(lab.guest("blue/db-1").namespace, address(guest), guest.port)
    assert who_answers([asked]) == [guest.port]


def test_attach_of_an_interface_that_is_not_there_or_anothers_is_refused(lab: Lab) -> None:
    from weft.cli.session import Failed

    taken = lab.guest("blue/web-3").interface
    for interface, said in (("nosuch0", "nosuch0"), (taken, taken)):
        with pytest.raises(Failed, match=said):
            lab.ask_agent("h1", "POST", "/attach", {"port": "tenants/blue/ports/web-1", "interface": interface})


def test_the_hosts_own_interfaces_keep_what_others_put_on_them(lab: Lab) -> None:
    """A qdisc and a filter of somebody else's on the uplink are there after an agent's whole life."""
    namespace = plan.host_namespace(lab.spec.name, "h2")

    def tc(*words: str) -> str:
        return subprocess.run(["tc", "-n", namespace, *words], capture_output=True, text=True, check=True).stdout

    tc("qdisc", "add", "dev", "lo", "clsact")
    tc("filter", "add", "dev", "lo", "egress", "prio", "7", "protocol", "ip", "u32", "match", "u32", "0", "0")
    try:
        before = tc("filter", "show", "dev", "lo", "egress")
        lab.kill("agent:h2", signal.SIGKILL)
        lab.mend()
        assert tc("filter", "show", "dev", "lo", "egress") == before
    finally:
        tc("qdisc", "del", "dev", "lo", "clsact")
