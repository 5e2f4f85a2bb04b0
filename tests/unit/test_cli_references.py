"""Users may name things shortly, and are told how when they do it wrongly."""

from __future__ import annotations

import pytest

from weft.cli import references
from weft.kit.errors import Rejected
from weft.model.names import PATTERNS, Kind


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("port", Kind.PORT),
        ("Ports", Kind.PORT),
        ("p", Kind.PORT),
        ("subnets", Kind.VIRTUAL_SUBNET),
        ("virtual-subnet", Kind.VIRTUAL_SUBNET),
        ("rd", Kind.ROUTING_DOMAIN),
        ("h", Kind.HOST),
        ("routes", Kind.CUSTOMER_ROUTE),
        ("blue", None),
    ],
)
def test_a_kind_has_a_singular_a_plural_and_short_words(word: str, kind: Kind | None) -> None:
    assert references.kind(word) is kind


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("blue/web-1", None, "tenants/blue/ports/web-1"),
        ("blue/prod/web", None, "tenants/blue/routing-domains/prod/virtual-subnets/web"),
        ("hosts/h1", None, "hosts/h1"),
        ("tenants/blue/", None, "tenants/blue"),
        ("h1", Kind.HOST, "hosts/h1"),
        ("blue/prod", Kind.ROUTING_DOMAIN, "tenants/blue/routing-domains/prod"),
        ("blue/prod/out", Kind.CUSTOMER_ROUTE, "tenants/blue/routing-domains/prod/customer-routes/out"),
        ("tenants/blue/ports/web-1", Kind.PORT, "tenants/blue/ports/web-1"),
    ],
)
def test_a_name_may_be_short(text: str, kind: Kind | None, name: str) -> None:
    assert references.full(text, kind) == name


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("web-1", None),
        ("a/b/c/d", None),
        ("blue//web", None),
        ("blue", Kind.PORT),
        ("-x/y", Kind.PORT),
        ("hosts/h1", Kind.PORT),
    ],
)
def test_what_is_no_name_is_refused(text: str, kind: Kind | None) -> None:
    with pytest.raises(Rejected):
        references.full(text, kind)


@pytest.mark.parametrize("kind", list(Kind))
def test_short_and_full_are_inverse(kind: Kind) -> None:
    name = PATTERNS[kind].lower()
    assert references.full(references.short(name), kind) == name


def test_a_collection_is_narrowed_by_tenant_and_domain() -> None:
    assert references.collection(Kind.PORT) == "tenants/-/ports"
    assert references.collection(Kind.PORT, "blue") == "tenants/blue/ports"
    assert references.collection(Kind.VIRTUAL_SUBNET, "blue", "prod") == (
        "tenants/blue/routing-domains/prod/virtual-subnets"
    )
    assert references.collection(Kind.HOST) == "hosts"
