"""Makes keys, certificates and signing requests, and reads them. Never touches a file, never reads a clock.

P-256 everywhere: a handshake costs a tenth of a millisecond, and every TLS library there is knows it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from weft.kit.errors import Rejected
from weft.tls.identity import Identity, Role

Key: TypeAlias = ec.EllipticCurvePrivateKey

#: Clocks of machines that have just booted may be behind.
BACKDATED = timedelta(minutes=10)

# Largest request that is looked at: a P-256 one is 500 bytes.
_MOST_REQUEST_BYTES = 8192


def make_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """PKCS #8, not encrypted: who starts by itself after a power cut has nobody to ask."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(pem: bytes) -> Key:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise Rejected(f"this is not a private key in PEM without a password: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Rejected("this is not a key on an elliptic curve, as `weft ca` makes them")
    return key


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate, read."""

    parsed: x509.Certificate

    @classmethod
    def of_pem(cls, pem: bytes) -> Self:
        """The first in a file; an issuer's, behind it, is left."""
        return cls.all_of_pem(pem)[0]

    @classmethod
    def all_of_pem(cls, pem: bytes) -> list[Self]:
        """Every certificate in a file, one at least."""
        try:
            return [cls(each) for each in x509.load_pem_x509_certificates(pem)]
        except ValueError as error:
            raise Rejected(f"this is not a certificate in PEM: {error}") from error

    @property
    def pem(self) -> bytes:
        return self.parsed.public_bytes(serialization.Encoding.PEM)

    @property
    def not_after(self) -> datetime:
        return self.parsed.not_valid_after_utc

    @property
    def not_before(self) -> datetime:
        return self.parsed.not_valid_before_utc

    @property
    def fingerprint(self) -> str:
        """SHA-256 of it, in hex."""
        return hashlib.sha256(self.parsed.public_bytes(serialization.Encoding.DER)).hexdigest()

    @property
    def identity(self) -> Identity | None:
        uris = self._names().get_values_for_type(x509.UniformResourceIdentifier)
        return Identity.of_uri(uris[0]) if len(uris) == 1 else None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where its holder is found: DNS names and IP addresses."""
        names = self._names()
        return (
            *names.get_values_for_type(x509.DNSName),
            *(str(each) for each in names.get_values_for_type(x509.IPAddress)),
        )

    def _names(self) -> x509.SubjectAlternativeName:
        try:
            return self.parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return x509.SubjectAlternativeName([])

    def is_of(self, key: Key) -> bool:
        return self.parsed.public_key() == key.public_key()


@dataclass(frozen=True, slots=True)
class Issuer:
    """A certificate authority: its certificate and its key. of: the only role it may sign; None: any."""

    certificate: Certificate
    key: Key
    of: Role | None = None

    def __post_init__(self) -> None:
        if not self.certificate.is_of(self.key):
            raise Rejected("the key is not the certificate's: they come in pairs")


def make_root(name: str, now: datetime, life: timedelta, key: Key | None = None) -> Issuer:
    """A root of trust. key: of the root that it renews, whose certificates stay valid by it then."""
    key = key or make_key()
    subject = _subject(name)
    builder = _begun(subject, subject, key.public_key(), now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Issuer(Certificate(builder.sign(key, hashes.SHA256())), key)


def make_issuer(root: Issuer, name: str, role: Role, now: datetime, life: timedelta, key: Key | None = None) -> Issuer:
    """An authority below a root that can sign certificates of one role, none of a server, and no authority."""
    key = key or make_key()
    builder = _begun(_subject(name), root.certificate.parsed.subject, key.public_key(), now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(
        x509.NameConstraints(
            [x509.UniformResourceIdentifier(role.domain)],
            [
                x509.DNSName(""),
                x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
                x509.IPAddress(ipaddress.ip_network("::/0")),
            ],
        ),
        critical=True,
    )
    builder = _linked(builder, root, key.public_key())
    return Issuer(Certificate(builder.sign(root.key, hashes.SHA256())), key, role)


def issue(
    issuer: Issuer,
    identity: Identity,
    public_key: ec.EllipticCurvePublicKey,
    addresses: Sequence[str],
    now: datetime,
    life: timedelta,
) -> Certificate:
    """A holder's certificate. addresses: DNS names and IP addresses that it serves at."""
    if issuer.of not in (None, identity.role):
        raise Rejected(f"this authority signs certificates of a {issuer.of}, not of a {identity.role}", "name")
    if identity.role.serves and not addresses:
        raise Rejected(f"a certificate of a {identity.role} needs the addresses that it is found at", "address")
    if addresses and not identity.role.serves:
        raise Rejected(f"nobody connects to a {identity.role}: its certificate has no addresses", "address")
    life = min(life, issuer.certificate.not_after - now)
    if life <= timedelta(0):
        raise Rejected("the authority's own certificate has expired: `weft ca renew` renews it")
    # etcd takes no requests by JSON from a certificate with a common name where users have passwords: it would have to
    # choose. RFC 5280 4.1.2.6: without a subject, the alternative names are critical.
    nameless = identity.role is Role.ETCD_CLIENT
    subject = x509.Name([]) if nameless else _subject(identity.label)
    builder = _begun(subject, issuer.certificate.parsed.subject, public_key, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role.serves:
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    names = [x509.UniformResourceIdentifier(identity.uri), *_general(addresses)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=nameless)
    builder = _linked(builder, issuer, public_key)
    return Certificate(builder.sign(issuer.key, hashes.SHA256()))


def make_request(key: Key) -> bytes:
    """A signing request (PKCS #10, PEM). Whose it is, is not in it: who signs knows that."""
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )  # fmt: skip


def read_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a request, which its sender has; all else that it may ask for is left."""
    if len(pem) > _MOST_REQUEST_BYTES:
        raise Rejected(f"a signing request of more than {_MOST_REQUEST_BYTES} bytes is none of ours", "request")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Rejected(f"this is not a signing request in PEM: {error}", "request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Rejected("a signing request needs a key on the curve P-256", "request")
    if not valid:
        raise Rejected("the signing request is not signed by its own key", "request")
    return key


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


_DNS_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
#: With a wildcard in front, or not; never numbers and dots alone, which are an address that is mistyped.
_DNS_NAME = re.compile(rf"(?![0-9.]+$)(?:\*\.)?{_DNS_LABEL}(?:\.{_DNS_LABEL})*")


def _general(addresses: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for address in addresses:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError:
            if not _DNS_NAME.fullmatch(address):
                raise Rejected(f"{address!r} is neither a DNS name nor an IP address", "address") from None
            names.append(x509.DNSName(address))
    return names


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _linked(
    builder: x509.CertificateBuilder, issuer: Issuer, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False).add_extension(
        above, critical=False
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
