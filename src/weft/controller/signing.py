"""Signs hosts' certificates, and nothing else: the key that it has cannot do more (``weft.tls.certificates``)."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from weft.kit.errors import Rejected
from weft.model.names import Name, label_of
from weft.tls import files
from weft.tls.certificates import Certificate, Issuer, issue, read_key, read_request
from weft.tls.identity import Identity, Role
from weft.wire.access import Issued

LIFE = timedelta(days=90)


class Signer:
    """Files are read for each certificate: they may be replaced, and it is seldom."""

    def __init__(self, certificate: Path, key: Path, ca: Path) -> None:
        """Raises Rejected when they are not what they should be."""
        self._certificate, self._key, self._ca = certificate, key, ca
        self._issuer()
        if len(Certificate.all_of_pem(self.trusted)) < 1:
            raise Rejected(f"{ca} has no certificate")

    @property
    def trusted(self) -> bytes:
        return files.read(self._ca)

    @property
    def fingerprint(self) -> str:
        """Of the newest root: by it, a host that joins knows whom to believe."""
        return Certificate.all_of_pem(self.trusted)[-1].fingerprint

    def check(self, request: str) -> None:
        read_request(request.encode())

    def sign(self, request: str, now: datetime, host: Name) -> Issued:
        issuer = self._issuer()
        key = read_request(request.encode())
        made = issue(issuer, Identity(Role.HOST, label_of(host)), key, [], now, LIFE)
        chain = made.pem + issuer.certificate.pem
        return Issued(certificate=chain.decode(), ca=self.trusted.decode())

    def _issuer(self) -> Issuer:
        return Issuer(Certificate.of_pem(files.read(self._certificate)), read_key(files.read(self._key)), Role.HOST)
