"""What of connections is asked for: filters."""

from __future__ import annotations

import pytest

from weft.agent.conntrack import Filter, parse, shown
from weft.apps.agent import parse_tracking
from weft.contracts.connections import Connection
from weft.kit.errors import Rejected
from weft.policy.connections import State

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
