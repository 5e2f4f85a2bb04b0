"""Two controller processes over a real etcd cluster: each serves anything, and neither needs the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd.controllers import controllers, etcd_url
from etcd_nodes import Cluster, cluster
from polling import eventually
from unit.controller_world import BASE, port
from weft.client import ApiError, Client

pytestmark = pytest.mark.xdist_group("etcd")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def revision(client: Client) -> int:
    return int(client.health()["revision"])


def test_what_one_controller_answers_the_other_serves(nodes: Cluster, tmp_path: Path) -> None:
    with controllers(etcd_url(nodes), tmp_path) as (a, b), Client(a.url) as one, Client(b.url) as other:
        one.apply(BASE)
        eventually(lambda: revision(other) == 1)
        made = other.put(*port(1))
        eventually(lambda: revision(one) == made.revision)
        assert one.get("tenants/blue/ports/p1").spec == made.spec


def test_a_controller_that_is_killed_loses_nothing_and_comes_back_to_what_the_other_wrote(
    nodes: Cluster, tmp_path: Path
) -> None:
    with controllers(etcd_url(nodes), tmp_path) as (a, b), Client(a.url) as one, Client(b.url) as other:
        one.apply(BASE)
        one.put(*port(1))
        a.kill()
        other.put(*port(2))
        other.delete("tenants/blue/ports/p1")
        a.start()
        eventually(a.answers)
        assert [item.name for item in one.list("tenants/blue/ports")] == ["tenants/blue/ports/p2"]


def test_controllers_go_on_while_one_etcd_node_is_killed_or_paused(nodes: Cluster, tmp_path: Path) -> None:
    with controllers(etcd_url(nodes), tmp_path) as (a, b), Client(a.url) as one, Client(b.url) as other:
        one.apply(BASE)
        for number, node in enumerate(nodes.nodes):
            node.pause()
            try:
                # At most one of the first tries meets an election.
                eventually(lambda n=number: _wrote(one, 10 * n + 1), "written while a node is paused")
            finally:
                node.resume()
            eventually(nodes.is_healthy, every_s=0.1)
            node.kill()
            try:
                eventually(lambda n=number: _wrote(other, 10 * n + 2), "written while a node is dead")
            finally:
                node.start(nodes.members)
            eventually(nodes.is_healthy, every_s=0.1)
        eventually(lambda: revision(one) == revision(other))
        names = {f"tenants/blue/ports/p{10 * n + m}" for n in range(3) for m in (1, 2)}
        assert {item.name for item in one.list("tenants/blue/ports")} == names
        assert {item.name for item in other.list("tenants/blue/ports")} == names


def _wrote(client: Client, number: int) -> bool:
    try:
        client.put(*port(number))
    except ApiError as error:
        if error.status not in (503, 504):
            raise
        return False
    return True


def test_without_a_majority_of_etcd_nothing_is_taken_and_everything_is_shown(nodes: Cluster, tmp_path: Path) -> None:
    with controllers(etcd_url(nodes), tmp_path, 1) as (a,), Client(a.url) as one:
        one.apply(BASE)
        for node in nodes.nodes[:2]:
            node.pause()
        try:
            with pytest.raises(ApiError) as refused:
                one.put(*port(1))
            assert refused.value.status in (503, 504)
            assert one.get("tenants/blue").spec == {"description": "of the sea"}
        finally:
            for node in nodes.nodes[:2]:
                node.resume()
        eventually(lambda: _wrote(one, 2))
