"""The agent in figures, for Prometheus. Never asks the data plane itself: it is given what was read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from weft.agent import announce, dhcp
from weft.agent.reconcile import Progress
from weft.contracts.dataplane import Traffic
from weft.policy.connections import Expected


@dataclass(frozen=True, slots=True)
class Rules:
    """What security groups have decided. denials: by port and rule; unidentified: records of groups not known."""

    hits: Mapping[str, int] = field(default_factory=dict)
    denials: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unidentified: int = 0


class _Figures(Collector):
    def __init__(
        self,
        progress: Progress,
        connected: bool,
        usage: Mapping[str, tuple[int, int]],
        counters: Mapping[str, Traffic],
        active_ports: int,
        answers: dhcp.Figures,
        announcements: announce.Figures,
        certificate_ends: datetime | None,
        unlearned: int,
        rules: Rules,
        expected: Mapping[Expected, int],
        pas_missing: int,
    ) -> None:
        self._progress = progress
        self._connected = connected
        self._usage = usage
        self._counters = counters
        self._active_ports = active_ports
        self._answers = answers
        self._announcements = announcements
        self._certificate_ends = certificate_ends
        self._unlearned = unlearned
        self._rules = rules
        self._expected = expected
        self._pas_missing = pas_missing

    def collect(self) -> Iterator[Metric]:
        progress = self._progress
        if self._certificate_ends is not None:
            yield GaugeMetricFamily(
                "weft_certificate_expiry_timestamp_seconds", "When the certificate of this host ends (Unix time).",
                value=self._certificate_ends.timestamp(),
            )  # fmt: skip
        yield GaugeMetricFamily(
            "weft_agent_connected", "1 while the feed of the controller is open.", value=float(self._connected)
        )
        yield GaugeMetricFamily(
            "weft_agent_applied_revision", "The revision that was applied last.", value=progress.revision or 0
        )
        yield GaugeMetricFamily("weft_agent_active_ports", "Ports that carry traffic.", value=self._active_ports)
        yield GaugeMetricFamily(
            "weft_agent_failures", "Rows and bindings that could not be carried out.",
            value=len(progress.troubles) + len(progress.binding_failures),
        )  # fmt: skip
        yield GaugeMetricFamily(
            "weft_agent_missing_provider_addresses",
            "PAs that policy gives this host and that are no addresses of it: what is sent there is lost.",
            value=self._pas_missing,
        )
        yield CounterMetricFamily("weft_agent_failed_rows", "Rows that failed, each time counted.", progress.failed)
        yield CounterMetricFamily(
            "weft_agent_mended_entries", "Entries found changed or gone, mended.", progress.mended
        )
        yield CounterMetricFamily("weft_agent_runs", "Runs of reconciliation.", progress.runs)
        yield from self._of_guests()
        rows = GaugeMetricFamily("weft_dataplane_rows", "Entries in use.", labels=["table"])
        capacity = GaugeMetricFamily("weft_dataplane_capacity", "Entries that there is room for.", labels=["table"])
        full = GaugeMetricFamily("weft_dataplane_full", "1 when a table has no room left.", labels=["table"])
        for table, (used, most) in self._usage.items():
            rows.add_metric([table], used)
            capacity.add_metric([table], most)
            if most > 1:  # the host's own row is one of one, and no lack of room
                full.add_metric([table], float(used >= most))
        yield from (rows, capacity, full)
        yield CounterMetricFamily(
            "weft_dataplane_unlearned", "Machines heard behind uplinks that there was no room to remember.",
            self._unlearned,
        )  # fmt: skip
        packets = CounterMetricFamily(
            "weft_port_packets", "Packets, seen from the guest.", labels=["port", "direction"]
        )
        octets = CounterMetricFamily("weft_port_bytes", "Bytes, seen from the guest.", labels=["port", "direction"])
        drops = CounterMetricFamily("weft_port_drops", "Packets dropped.", labels=["port", "reason"])
        for port, traffic in self._counters.items():
            packets.add_metric([port, "received"], traffic.received_packets)
            packets.add_metric([port, "sent"], traffic.sent_packets)
            octets.add_metric([port, "received"], traffic.received_bytes)
            octets.add_metric([port, "sent"], traffic.sent_bytes)
            for reason, count in traffic.drops.items():
                drops.add_metric([port, reason.label], count)
        yield from (packets, octets, drops)
        yield from self._of_rules()

    def _of_rules(self) -> Iterator[Metric]:
        hits = CounterMetricFamily(
            "weft_security_rule_hits", "How often a rule of a security group has decided.", labels=["rule"]
        )
        for rule, count in self._rules.hits.items():
            hits.add_metric([rule], count)
        denials = CounterMetricFamily(
            "weft_security_denials",
            "Packets that rules have not let pass, by port and by the rule that denies (none: no rule speaks of them).",
            labels=["port", "rule"],
        )
        for port, by_rule in self._rules.denials.items():
            for rule, count in by_rule.items():
                denials.add_metric([port, rule or "none"], count)
        yield from (hits, denials)
        yield GaugeMetricFamily(
            "weft_security_unidentified_records",
            "Addresses that ports whose rules name groups deny: there is no room to say which groups they are of.",
            value=self._rules.unidentified,
        )
        expected = CounterMetricFamily(
            "weft_ftp_expectations", "What FTP says of data connections, by what became of it.", labels=["outcome"]
        )
        for what, count in self._expected.items():
            expected.add_metric([what.label], count)
        yield expected

    def _of_guests(self) -> Iterator[Metric]:
        announced = CounterMetricFamily(
            "weft_agent_announcements", "What guests have announced, by what became of it.", labels=["outcome"]
        )
        for outcome, count in asdict(self._announcements).items():
            announced.add_metric([outcome], count)
        yield announced
        figures = self._answers
        questions = CounterMetricFamily(
            "weft_agent_questions", "What guests asked about their addresses.", labels=["kind", "outcome"]
        )
        for kind in dhcp.KINDS:
            questions.add_metric([kind.label, "answered"], figures.answered[kind])
            questions.add_metric([kind.label, "silent"], figures.silent[kind])
        yield questions
        yield CounterMetricFamily(
            "weft_agent_missed_questions", "Questions that came while too many waited.", figures.missed
        )
        yield CounterMetricFamily("weft_agent_unsent_answers", "Answers that no guest could be sent.", figures.unsent)
        yield CounterMetricFamily(
            "weft_agent_router_advertisements", "Router advertisements that nobody asked for.", figures.advertised
        )


def render(
    progress: Progress,
    *,
    connected: bool,
    usage: Mapping[str, tuple[int, int]],
    counters: Mapping[str, Traffic],
    active_ports: int,
    answers: dhcp.Figures | None = None,
    announcements: announce.Figures | None = None,
    certificate_ends: datetime | None = None,
    unlearned: int = 0,
    rules: Rules | None = None,
    expected: Mapping[Expected, int] | None = None,
    pas_missing: int = 0,
) -> bytes:
    registry = CollectorRegistry()
    registry.register(
        _Figures(
            progress,
            connected,
            usage,
            counters,
            active_ports,
            answers or dhcp.Figures(),
            announcements or announce.Figures(),
            certificate_ends,
            unlearned,
            rules or Rules(),
            expected or {},
            pas_missing,
        )
    )
    return generate_latest(registry)
