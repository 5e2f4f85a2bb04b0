from __future__ import annotations

import pytest

from weft.kit.errors import Rejected
from weft.model import names
from weft.model.names import Kind, Name

WEB = "tenants/blue/routing-domains/prod/virtual-subnets/web"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("tenants/blue", Kind.TENANT),
        ("provider-networks/fabric", Kind.PROVIDER_NETWORK),
        ("hosts/h1", Kind.HOST),
        ("tenants/blue/routing-domains/prod", Kind.ROUTING_DOMAIN),
        (WEB, Kind.VIRTUAL_SUBNET),
        ("tenants/blue/ports/web-1", Kind.PORT),
        ("tenants/blue/ports/0f0c2b9e-4d1f-5d55-9a43-6c9f6b1f2a10", Kind.PORT),
        ("tenants/blue/routing-domains/prod/customer-routes/out", Kind.CUSTOMER_ROUTE),
        ("hosts/" + "a" * 63, Kind.HOST),
    ],
)
def test_a_name_says_its_kind(text: str, kind: Kind) -> None:
    assert names.kind_of(text) is kind
    assert names.parse_name_of(kind, text) == text
    assert names.join(kind, *text.split("/")[1::2]) == text


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("", "is not a name such as tenants/T"),
        ("tenants", "is not a name such as"),
        ("tenants/", "'' is not a DNS label"),
        ("tenants/Blue", "'Blue' is not a DNS label"),
        ("tenants/-blue", "'-blue' is not a DNS label"),
        ("tenants/blue-", "'blue-' is not a DNS label"),
        ("hosts/" + "a" * 64, "is not a DNS label"),
        ("hosts/h1\n", "is not a DNS label"),
        ("hosts/h.1", "'h.1' is not a DNS label"),
        ("hosts/h1/", "is not a name such as"),
        ("/hosts/h1", "is not a name such as"),
        ("tenants/blue/hosts/h1", "is not a name such as"),
        ("tenants/blue/ports/ä", "'ä' is not a DNS label"),
    ],
)
def test_what_is_no_name_is_refused_with_what_is_wrong(text: str, saying: str) -> None:
    with pytest.raises(Rejected) as fault:
        names.parse_name(text)
    assert saying in fault.value.message
    assert repr(text) in fault.value.message
    assert names.find_kind(text) is None


def test_a_name_of_another_kind_is_refused_with_the_right_pattern() -> None:
    with pytest.raises(Rejected, match=r"'hosts/h1' names a host, not a port such as tenants/T/ports/P"):
        names.parse_name_of(Kind.PORT, "hosts/h1")
    with pytest.raises(Rejected, match="'x' is not a name such as tenants/T/ports/P"):
        names.parse_name_of(Kind.PORT, "x")


def test_a_name_knows_whose_it_is() -> None:
    assert names.parent(Name(WEB)) == "tenants/blue/routing-domains/prod"
    assert names.parent(Name("tenants/blue/ports/web-1")) == "tenants/blue"
    assert names.parent(Name("hosts/h1")) is None
    assert names.tenant_of(Name(WEB)) == "tenants/blue"
    assert names.domain_of(Name(WEB)) == "tenants/blue/routing-domains/prod"
    assert names.label_of(Name(WEB)) == "web"


@pytest.mark.parametrize(
    ("reference", "base"),
    [
        (WEB, None),
        ("blue/prod/web", None),
        ("prod/web", "tenants/blue/ports/web-1"),
        ("web", "tenants/blue/routing-domains/prod/customer-routes/out"),
        ("prod/web", "tenants/blue/routing-domains/prod/customer-routes/out"),
    ],
)
def test_a_short_reference_means_what_is_nearest(reference: str, base: str | None) -> None:
    assert names.resolve(Kind.VIRTUAL_SUBNET, reference, Name(base) if base else None) == WEB


@pytest.mark.parametrize("reference", ["web", "", "a/b/c/d", "prod/Web", "hosts/h1/x/y", "prod//web"])
def test_a_reference_that_names_nothing_is_refused_with_both_ways_to_write_it(reference: str) -> None:
    with pytest.raises(Rejected) as fault:
        names.resolve(Kind.VIRTUAL_SUBNET, reference, Name("tenants/blue/ports/web-1"))
    assert "write tenants/T/routing-domains/D/virtual-subnets/S, or D/S" in fault.value.message


def test_a_host_may_be_referred_to_by_its_label() -> None:
    assert names.resolve(Kind.HOST, "h1") == names.resolve(Kind.HOST, "hosts/h1") == "hosts/h1"


def test_a_label_count_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Rejected, match="is not of the form tenants/T/ports/P"):
        names.join(Kind.PORT, "blue")
