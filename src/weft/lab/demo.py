"""make demo: three hosts, two tenants with the same addresses; everything that Weft is for, shown and checked.

Ends with 0 only if all of it came out right, and takes its lab down whatever happens.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from weft.cli import show
from weft.cli.session import busy, failed
from weft.lab import capture, plan
from weft.lab.lab import Lab
from weft.lab.plan import Guest
from weft.lab.traffic import Question, Responders, who_answers

EXAMPLE = Path(__file__).parents[3] / "examples" / "demo.yaml"


class Demo:
    """Runs the chapters in order, and keeps what went wrong."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.wrong: list[str] = []
        self._chapter = 0

    def chapter(self, title: str) -> None:
        self._chapter += 1
        click.echo("\n" + click.style(f"{self._chapter}. {title}", bold=True))

    def check(self, right: bool, what: str) -> None:
        click.echo(
            f"   {click.style('ok', fg='green') if right else click.style('WRONG', fg='red', bold=True)}  {what}"
        )
        if not right:
            self.wrong.append(what)

    # ---- who reaches whom

    def matrix(self) -> None:
        self.chapter("Who reaches whom: each guest asks every address who is there")
        guests = sorted(self.lab.guests.values(), key=lambda guest: guest.port)
        for version, family in ((4, "IPv4"), (6, "IPv6")):
            owners = owners_by_tenant(guests, version)
            addresses = sorted({address for owned in owners.values() for address in owned}, key=ipaddress.ip_address)
            questions = [
                Question(guest.namespace, address, owners[tenant_of(guest.port)].get(address))
                for guest in guests
                for address in addresses
            ]
            answers = iter(zip(questions, who_answers(questions), strict=True))
            rows, right = [], 0
            for guest in guests:
                row = [f"{short(guest.port)} on {guest.host}"]
                for _ in addresses:
                    question, answer = next(answers)
                    fits = answer == question.expected
                    right += fits
                    said = short(answer) if answer else "nobody"
                    row.append(
                        said if fits else f"{said}, not {short(question.expected) if question.expected else 'nobody'}!"
                    )
                rows.append(row)
            click.echo()
            show.table([f"asked from ({family})", *addresses], rows)
            self.check(
                right == len(questions), f"{right} of {len(questions)} answers over {family} are as they should be"
            )

    # ---- on the wire

    def wire(self) -> None:
        self.chapter("On the wire: the same address of both tenants, told apart by VSID alone")
        frames: list[bytes] = []
        fabric = plan.fabric_namespace(self.lab.spec.name)
        wanted = {self.vsid("blue/prod/web"), self.vsid("red/prod/web")}
        with contextlib.ExitStack() as stack:
            wires = [
                stack.enter_context(capture.Wire(fabric, f"host{index}"))
                for index in range(1, len(self.lab.spec.hosts) + 1)
            ]
            for tenant in ("blue", "red"):
                self.lab.exec(f"{tenant}/web-1", "ping", "-c", "1", "-W", "2", "10.0.0.11")
            for wire in wires:
                for frame in wire.frames(lambda found: len(found) >= 20, within_s=0.2):
                    if capture.is_nvgre(frame) and capture.vsid(frame) in wanted - {
                        capture.vsid(each) for each in frames
                    }:
                        frames.append(frame)
        with tempfile.TemporaryDirectory() as directory:
            pcap = Path(directory) / "nvgre.pcap"
            capture.write_pcap(pcap, frames)
            for line in capture.decode(pcap, "-O", "ip,gre").splitlines():
                if re.match(
                    r"Frame|Internet Protocol|Generic|    Key|    Protocol Type|Ethernet|Internet Control", line
                ):
                    click.echo(f"   {line}")
            decoded = capture.decode_json(pcap)
            warnings = capture.decode(
                pcap, "-Y", "_ws.malformed || _ws.expert.severity >= 6291456"
            )  # warning and above
        keys = {int(layers["gre"]["gre.key"], 0) >> 8 for layers in decoded if "gre" in layers}
        inner = {layers["gre"]["gre.proto"] for layers in decoded if "gre" in layers}
        self.check(keys == wanted, f"tshark reads the VSIDs of both tenants: {', '.join(map(str, sorted(keys)))}")
        self.check(
            inner == {"0x6558"} and not warnings.strip(), "as NVGRE (GRE key, protocol 0x6558), without a warning"
        )

    def vsid(self, subnet: str) -> int:
        tenant, domain, name = subnet.split("/")
        with self.lab.client() as client:
            found = client.get(f"tenants/{tenant}/routing-domains/{domain}/virtual-subnets/{name}")
        return int(found.spec["vsid"])

    # ---- trace

    def trace(self) -> None:
        self.chapter("weft trace --from blue/web-1 --to 10.0.1.10")
        with self.lab.client() as client:
            found = client.trace("tenants/blue/ports/web-1", to="10.0.1.10")
            lost = client.trace("tenants/red/ports/web-1", to="10.0.0.50")
        for step in found.steps:
            click.echo(f"   {step.host.removeprefix('hosts/')}  {step.text}")
        outcome = found.outcome
        right = (outcome.get("verdict"), outcome.get("port")) == ("delivered", "tenants/blue/ports/db-1")
        self.check(right, f"{outcome.get('verdict')} to {outcome.get('port')}")
        reason = lost.outcome.get("reason")
        self.check(
            reason == "no_record",
            f"red/web-1 to 10.0.0.50, which only blue has: {lost.outcome.get('verdict')}, {reason}",
        )

    # ---- moving

    def move(self) -> None:
        guest = self.lab.guest("blue/web-1")
        self.chapter(
            f"blue/web-1 moves from {guest.host} to h3, another subnet of the underlay, while blue/web-2 pings it"
        )
        with pinging(self.lab, "blue/web-2", "10.0.0.10") as ping:
            ping.await_replies(20)
            begun = time.monotonic()
            self.lab.move("blue/web-1", "h3")
            took_s = time.monotonic() - begun
            ping.await_replies(50)
        self.check(ping.received > 0, f"{ping.sent} packets sent 10 ms apart, {ping.sent - ping.received} lost")
        # Hand-over of a real machine takes longer than this; what is lost must end with it.
        self.check(
            (ping.sent - ping.received) * 0.01 <= took_s + 0.2,
            f"and none after it had arrived ({took_s * 1000:.0f} ms)",
        )
        [answer] = who_answers([Question(self.lab.guest("blue/db-1").namespace, "10.0.0.10", guest.port)])
        self.check(answer == guest.port, "blue/db-1 finds it at its old address")

    # ---- without a controller

    def headless(self) -> None:
        self.chapter("The controller stops; traffic does not; a restarted agent needs none either")
        self.lab.kill("controller", signal.SIGTERM)
        self.lab.await_gone("controller")
        with pinging(self.lab, "red/web-1", "10.0.1.10") as ping:
            ping.await_replies(30)
            self.lab.kill("agent:h2")
            self.lab.start_agent("h2")
            self.lab.await_agent("h2", time.monotonic() + 20)
            ping.await_replies(30)
        told = f"{ping.sent} packets sent, {ping.sent - ping.received} lost, with no controller"
        self.check(
            ping.sent == ping.received, f"{told} and the agent of h2 killed (SIGKILL) and started again in between"
        )
        self.lab.start_controller()
        self.lab.await_controller(time.monotonic() + 20)
        self.lab.await_active(time.monotonic() + 30)
        self.check(True, "the controller is back, and every port reports to it as active")


class Ping:
    """ping(8) at 10 ms, read while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.replies = 0
        self.sent = self.received = 0

    def await_replies(self, count: int) -> None:
        """That many more. ping itself ends after its -w, and with it the wait."""
        until = self.replies + count
        for line in self._process.stdout or ():
            self.replies += "bytes from" in line
            if self.replies >= until:
                return

    def finish(self) -> None:
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=10)
        if match := re.search(r"(\d+) packets transmitted, (\d+) received", output):
            self.sent, self.received = int(match[1]), int(match[2])
        # The last may have been under way when we ended it.
        if self.sent == self.received + 1:
            self.sent -= 1


@contextlib.contextmanager
def pinging(lab: Lab, guest: str, address: str) -> Iterator[Ping]:
    command = lab.command(guest, ["ping", "-i", "0.01", "-w", "60", address])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=lab.environment()) as process:
        ping = Ping(process)
        try:
            yield ping
        finally:
            ping.finish()


def owners_by_tenant(guests: list[Guest], version: int) -> dict[str, dict[str, str]]:
    """Who should answer at an address, tenant by tenant."""
    owners: dict[str, dict[str, str]] = {}
    for guest in guests:
        for each in map(ipaddress.ip_interface, guest.addresses):
            if each.version == version:
                owners.setdefault(tenant_of(guest.port), {})[str(each.ip)] = guest.port
    return owners


def tenant_of(port: str) -> str:
    return port.split("/")[1]


def short(port: str) -> str:
    _, tenant, _, name = port.split("/")
    return f"{tenant}/{name}"


def run(name: str) -> list[str]:
    """What came out wrong."""
    begun = time.monotonic()
    with busy("lab") as progress:
        lab = Lab.up(EXAMPLE, progress, name=name)
    demo = Demo(lab)
    hosts = ", ".join(f"{host.name} at {host.pa}" for host in lab.spec.hosts)
    click.echo(
        f"The lab {name}: {hosts}; {len(lab.guests)} guests of two tenants; up in {time.monotonic() - begun:.1f} s"
    )
    with Responders(lab.guests.values()):
        chapters: list[Callable[[], None]] = [demo.matrix, demo.wire, demo.trace, demo.move, demo.headless]
        for chapter in chapters:
            chapter()
    return demo.wrong


def main() -> int:
    name = f"demo-{os.getpid()}"  # beside whatever other lab is up

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        wrong = run(name)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:
        if (known := failed(error)) is None:
            raise
        known.show()
        return known.exit_code
    finally:
        Lab.down(name)
    click.echo()
    if wrong:
        click.echo(click.style(f"{len(wrong)} came out wrong: {'; '.join(wrong)}", fg="red", bold=True))
        return 1
    click.echo(click.style("Everything came out right.", fg="green", bold=True) + " The lab is gone again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
