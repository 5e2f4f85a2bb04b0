"""Which port is behind which interface: what was said comes first, then what a name says; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft.agent.bindings import Attachments, Found, Plan, plan, tap_of
from weft.agent.links import Link
from weft.kit.errors import Conflict, Missing, Rejected

A = "tenants/blue/ports/4f2b6c1e-93d0-4d1c-8a52-000000000001"
B = "tenants/red/ports/4f2b6c1e-93d1-4d1c-8a52-000000000002"
SHORT = "tenants/red/ports/db"
NO_UPLINKS: frozenset[str] = frozenset()


def links(*names: str) -> dict[str, Link]:
    return {name: Link(name, number, up=True) for number, name in enumerate(names, 2)}


@pytest.mark.parametrize(("port", "tap"), [(A, "tap4f2b6c1e-93"), (SHORT, "tapdb")])
def test_a_tap_is_named_by_the_first_eleven_characters(port: str, tap: str) -> None:
    assert tap_of(port) == tap


@pytest.mark.parametrize(
    ("ports", "explicit", "present", "uplinks", "expected"),
    [
        pytest.param([A], {}, [], NO_UPLINKS, Plan(), id="no interface, no binding"),
        pytest.param([A], {}, [tap_of(A)], NO_UPLINKS, Plan({A: tap_of(A)}), id="found by name"),
        pytest.param([], {}, [tap_of(A)], NO_UPLINKS, Plan(), id="a tap of no port of ours"),
        pytest.param([A], {A: "eth7"}, ["eth7", tap_of(A)], NO_UPLINKS, Plan({A: "eth7"}), id="said before found"),
        pytest.param([A], {A: "eth7"}, [tap_of(A)], NO_UPLINKS, Plan(), id="said, though it is not there"),
        pytest.param([], {A: "eth7"}, ["eth7"], NO_UPLINKS, Plan({A: "eth7"}), id="said before the policy arrives"),
        pytest.param([A], {SHORT: tap_of(A)}, [tap_of(A)], NO_UPLINKS, Plan({SHORT: tap_of(A)}), id="said: another"),
        pytest.param([A], {}, [tap_of(A)], frozenset({tap_of(A)}), Plan(), id="an uplink is nobody's"),
        pytest.param([A, B], {}, [tap_of(A)], NO_UPLINKS, Plan({}, {tap_of(A): (A, B)}), id="2 of 2"),
        pytest.param([A, B], {A: "lan"}, ["lan", tap_of(A)], NO_UPLINKS, Plan({A: "lan", B: tap_of(B)}), id="1 of 2"),
    ],
)  # fmt: skip
def test_the_plan_of_bindings(
    ports: list[str], explicit: dict[str, str], present: list[str], uplinks: frozenset[str], expected: Plan
) -> None:
    assert plan(ports, explicit, links(*present), uplinks) == expected


TAP = tap_of(A)


@pytest.mark.parametrize(
    ("ports", "explicit", "present", "uplinks", "expected"),
    [
        pytest.param([A, B], {}, [TAP], NO_UPLINKS, {A: TAP}, id="a port that comes later takes nothing away"),
        pytest.param([], {}, [TAP], NO_UPLINKS, {A: TAP}, id="an interface whose port is gone stays closed"),
        pytest.param([B], {}, [TAP], NO_UPLINKS, {B: TAP}, id="until another port has its name"),
        pytest.param([], {SHORT: TAP}, [TAP], NO_UPLINKS, {SHORT: TAP}, id="or is attached to it"),
        pytest.param([], {}, [], NO_UPLINKS, {}, id="or it goes itself"),
        pytest.param([], {}, [TAP], frozenset({TAP}), {}, id="or is an uplink"),
        pytest.param([A], {A: "lan"}, ["lan", TAP], NO_UPLINKS, {A: "lan"}, id="or its port is attached elsewhere"),
    ],
)
def test_what_was_found_before(
    ports: list[str], explicit: dict[str, str], present: list[str], uplinks: frozenset[str], expected: dict[str, str]
) -> None:
    assert plan(ports, explicit, links(*present), uplinks, {A: TAP}).bindings == expected


def test_what_was_found_is_known_after_a_start_and_no_start_fails_for_it(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    Found(path).keep({A: TAP})
    again = Found(path)
    again.load()
    assert again.interfaces == {A: TAP}
    path.write_text("{", encoding="utf-8")
    torn = Found(path)
    torn.load()
    assert torn.interfaces == {}


def test_attachments_are_there_again_after_a_start(tmp_path: Path) -> None:
    path = tmp_path / "bindings.json"
    attachments = Attachments(path)
    attachments.load()
    attachments.attach(A, "eth7", {}, links("eth7", "eth8"), NO_UPLINKS)
    attachments.attach(A, "eth8", {}, links("eth7", "eth8"), NO_UPLINKS)  # moved
    attachments.attach(SHORT, "eth7", {}, links("eth7", "eth8"), NO_UPLINKS)
    attachments.detach(SHORT)
    again = Attachments(path)
    again.load()
    assert again.interfaces == {A: "eth8"}
    assert [found.name for found in tmp_path.iterdir()] == ["bindings.json"]


def test_an_interface_of_another_port_is_refused_whether_said_or_found(tmp_path: Path) -> None:
    attachments = Attachments(tmp_path / "bindings.json")
    with pytest.raises(Conflict, match=f"{tap_of(A)} is the interface of {A}"):
        attachments.attach(SHORT, tap_of(A), {A: tap_of(A)}, links(tap_of(A)), NO_UPLINKS)
    with pytest.raises(Missing, match="no interface 'eth9'"):
        attachments.attach(A, "eth9", {}, links("eth7"), NO_UPLINKS)
    assert not (tmp_path / "bindings.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"tenants/a/ports/b": 7}', "\x00"])
def test_a_file_of_another_kind_is_refused_and_not_taken_for_no_attachments(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bindings.json"
    path.write_text(content)
    with pytest.raises(Rejected, match=r"bindings\.json is not"):
        Attachments(path).load()
