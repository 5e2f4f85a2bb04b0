"""What of connections is asked for: filters."""

from __future__ import annotations

import json
import socketserver
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from click.testing import CliRunner

from unit.test_agent_handover import asker, plane, talk
from weft.agent.conntrack import (
    MOST_WAITING,
    PROTOCOLS,
    Conntrack,
    Filter,
    Heard,
    Missed,
    check,
    parse,
    shown,
    shown_event,
)
from weft.agent.rule_log import RuleLog
from weft.apps.agent import parse_tracking
from weft.apps.cli import main
from weft.contracts.connections import Connection, ConnectionEvent
from weft.kit.clock import MonotonicClock
from weft.kit.errors import Missing, Rejected
from weft.policy.connections import State
from weft.wire.listed import MOST_OF_HOST

WEB = Connection(
    b"", "tenants/blue/ports/web-1", 6, "10.0.1.4", "10.0.1.5", 40000, 80, State.ESTABLISHED, True, 7, False,
    (3, 2), (300, 200), 1.5, 60.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ({}, True),
        ({"tenant": "blue"}, True),
        ({"tenant": "blu"}, False),
        ({"port": "tenants/blue/ports/web-1"}, True),
        ({"port": "tenants/blue/ports/web-2"}, False),
        ({"address": "10.0.1.4"}, True),
        ({"address": "10.0.1.5"}, True),
        ({"address": "10.0.1.6"}, False),
        ({"protocol": "tcp"}, True),
        ({"protocol": "6"}, True),
        ({"protocol": "TCP", "state": "Established"}, True),
        ({"address": "10.0.1.4", "state": "closed"}, False),
        ({"address": "10.0.1.4", "protocol": "udp"}, False),
        ({"protocol": "udp"}, False),
        ({"state": "established"}, True),
        ({"state": "closed"}, False),
    ],
)
def test_a_filter_matches_what_it_says(asked: dict[str, str], matches: bool) -> None:
    assert parse(asked).matches(WEB) is matches


@pytest.mark.parametrize(
    "asked", [{"state": "open"}, {"protocol": "256"}, {"protocol": "smtp"}, {"address": "host"}, {"colour": "blue"}]
)
def test_what_is_no_filter_is_refused_by_name(asked: dict[str, str]) -> None:
    with pytest.raises(Rejected) as refused:
        parse(asked)
    assert refused.value.field in asked


PORTS = frozenset({"tenants/blue/ports/web-1", *(f"tenants/red/ports/db-{n}" for n in range(7))})


@pytest.mark.parametrize("asked", [{}, {"tenant": "red"}, {"port": "tenants/blue/ports/web-1"}, {"address": "::1"}])
def test_what_the_host_has_may_be_asked_of(asked: dict[str, str]) -> None:
    assert check(parse(asked), PORTS) == parse(asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"port": "tenants/blue/ports/web-2"}, "has no 'tenants/blue/ports/web-2'; it has tenants/blue/ports/web-1, "),
        ({"port": "blue/web-1"}, ", 3 more"),
        ({"tenant": "blu"}, "has no port of 'blu'; it has ports of blue, red"),
    ],
)
def test_what_the_host_has_not_is_missing_and_it_says_what_there_is(asked: dict[str, str], said: str) -> None:
    with pytest.raises(Missing) as missing:
        check(parse(asked), PORTS)
    assert said in missing.value.message
    assert missing.value.field in asked
    with pytest.raises(Missing, match="it has none"):
        check(parse({"port": "tenants/blue/ports/web-1"}), ())


async def test_who_is_too_slow_hears_how_many_events_were_missed_and_where() -> None:
    heard = Heard(parse({"protocol": "tcp"}))
    said = [ConnectionEvent("new", replace(WEB, local_port=number)) for number in range(MOST_WAITING + 3)]
    for event in said:
        heard.put(ConnectionEvent("new", replace(WEB, protocol=17)))  # nobody's, and so in nobody's way
        heard.put(event)
    assert [await heard.next() for _ in range(2)] == said[:2]
    heard.put(said[-1])
    rest = [await heard.next() for _ in range(MOST_WAITING)]
    assert rest == [*said[2:MOST_WAITING], Missed(3), said[-1]]
    for event in said:
        heard.put(event)
    assert [await heard.next() for _ in said[3:]] == said[:-3]
    assert await heard.next() == Missed(3), "though nothing comes behind them"


def test_an_event_says_what_has_become_of_a_connection() -> None:
    found = shown_event(ConnectionEvent("destroyed", WEB), {})
    assert found == {"event": "destroyed"} | {
        key: value for key, value in shown(WEB, {}).items() if key not in ("age_s", "expires_s")
    }
    assert shown_event(Missed(3), {}) == {"event": "missed", "count": 3}


def test_time_outs_and_bounds_are_settings_of_the_agent() -> None:
    settings = parse_tracking(["established=3600", "most-of-port=10", "udp_replied=5"])
    assert (settings.most, settings.most_of_port) == (1 << 18, 10)
    assert settings.timeouts_s == {State.ESTABLISHED: 3600, State.UDP_REPLIED: 5}


@pytest.mark.parametrize(("given", "port"), [([], 21), (["ftp=2121"], 2121), (["ftp=off"], 0), (["expected=5"], 21)])
def test_whose_control_connections_are_listened_to_is_a_setting(given: list[str], port: int) -> None:
    assert parse_tracking(given).ftp_port == port


@pytest.mark.parametrize(
    "given", ["ftp", "ftp=0", "ftp=65536", "ftp=on", "established", "established=-1", "open=3", "most=0"]
)
def test_what_is_no_setting_is_refused(given: str) -> None:
    with pytest.raises(Rejected):
        parse_tracking([given])


def test_a_connection_is_shown_with_words_for_numbers() -> None:
    rule = "tenants/blue/security-groups/web/rules/http"
    found = shown(WEB, {7: rule})
    assert (found["protocol"], found["state"], found["begun_by"]) == ("tcp", "established", "guest")
    assert (found["rule"], found["rule_name"]) == (7, rule)
    assert shown(WEB, {})["rule_name"] == "", "the rule is gone"
    assert Filter() == parse({})


async def test_of_more_than_are_listed_all_are_counted(tmp_path: Path) -> None:
    here = plane()
    talk(here)
    (one,) = (of for _, of in here.carried(WEB.port) if of.protocol == 17)
    there = [one._replace(remote_port=1000 + number) for number in range(MOST_OF_HOST + 2)]
    assert here.take(WEB.port, there) == len(there)
    clock = MonotonicClock()
    tracked = Conntrack(None, asker(here), clock, RuleLog(tmp_path / "log", clock, lambda: 0, PROTOCOLS))
    wanted = parse({"protocol": "udp", "port": WEB.port})
    some, total = await tracked.count(wanted, 10)
    assert (len(some), total) == (10, MOST_OF_HOST + 3)
    assert len(await tracked.list(wanted)) == MOST_OF_HOST
    assert (await tracked.count(parse({"protocol": "icmp"}), 10)) == ([], 0)


async def test_what_has_expired_is_flushed_too_and_not_counted(tmp_path: Path) -> None:
    here = plane()
    talk(here)
    (one,) = (of for _, of in here.carried(WEB.port) if of.protocol == 17)
    over = [one._replace(remote_port=1000 + number, left_ms=0) for number in range(3)]
    assert here.take(WEB.port, over) == len(over)
    clock = MonotonicClock()
    tracked = Conntrack(None, asker(here), clock, RuleLog(tmp_path / "log", clock, lambda: 0, PROTOCOLS))
    wanted = parse({"protocol": "udp", "port": WEB.port})
    assert len(await tracked.list(wanted)) == 1
    assert sum(each.port == WEB.port and each.protocol == 17 for each in here.connections()) == 4
    assert await tracked.flush(wanted) == 1
    assert not any(each.port == WEB.port and each.protocol == 17 for each in here.connections())


@pytest.mark.parametrize("count", [MOST_OF_HOST - 1, MOST_OF_HOST])
def test_a_listing_that_may_leave_some_out_says_so_on_stderr(tmp_path: Path, count: int) -> None:
    content = json.dumps([shown(WEB, {})] * count).encode()

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def address_string(self) -> str:
            return "a socket"

    path = str(tmp_path / "s")
    with socketserver.UnixStreamServer(path, Agent) as agent:
        threading.Thread(target=agent.handle_request, daemon=True).start()
        done = CliRunner().invoke(main, ["conntrack", "list", "--agent", path, "-o", "json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)) == count
    assert ("no more than 10000 are listed" in done.stderr) is (count == MOST_OF_HOST)
