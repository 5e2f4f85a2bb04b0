"""The certificates of one deployment, in a directory: what `weft ca` makes, lists and renews. Never sends one anywhere.

``ca.crt`` is what everybody trusts; ``root.key`` signs controllers, administrators and operators and can lie in a safe.
``hosts.crt`` and ``hosts.key`` sign hosts and nothing else: controllers have them, so that hosts can join. etcd has a
root of its own: it lets in whoever its root has signed, and that must not be every host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from weft.kit.errors import Conflict, Missing
from weft.tls import files
from weft.tls.certificates import Certificate, Issuer, issue, key_pem, make_issuer, make_key, make_root, read_key
from weft.tls.identity import Identity, Role

ROOT_LIFE = timedelta(days=3650)
ISSUER_LIFE = timedelta(days=1825)
LIFE = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Held:
    """One certificate of the directory. name: as `weft ca` calls it; identity None: an authority's."""

    name: str
    identity: Identity | None
    certificate: Certificate
    path: Path

    @property
    def key_path(self) -> Path:
        return self.path.with_suffix(".key")


class Authority:
    """A directory. ``make`` begins one; the constructor takes one that is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if not self.ca.is_file():
            raise Missing(f"there is no authority in {directory}; `weft ca init {directory}` makes one")

    @classmethod
    def make(cls, directory: Path, name: str, now: datetime) -> Authority:
        if (directory / "ca.crt").exists() or (directory / "root.key").exists():
            raise Conflict(f"there is an authority in {directory} already; it is left as it is")
        root = make_root(f"{name} root", now, ROOT_LIFE)
        hosts = make_issuer(root, f"{name} hosts", Role.HOST, now, ISSUER_LIFE)
        etcd = make_root(f"{name} etcd root", now, ROOT_LIFE)
        for path, issuer in ((directory / "root", root), (directory / "hosts", hosts), (directory / "etcd-root", etcd)):
            files.write(path.with_suffix(".key"), key_pem(issuer.key), secret=True)
            files.write(path.with_suffix(".crt"), issuer.certificate.pem)
        files.write(directory / "etcd-ca.crt", etcd.certificate.pem)
        files.write(directory / "ca.crt", root.certificate.pem)  # last: with it, the authority is there
        return cls(directory)

    @property
    def ca(self) -> Path:
        """What everybody trusts."""
        return self.directory / "ca.crt"

    @property
    def etcd_ca(self) -> Path:
        """What etcd trusts, and those who connect to it."""
        return self.directory / "etcd-ca.crt"

    def root(self) -> Issuer:
        return self._issuer("root")

    def hosts(self) -> Issuer:
        """What controllers sign hosts with."""
        return self._issuer("hosts", Role.HOST)

    def etcd_root(self) -> Issuer:
        return self._issuer("etcd-root")

    def issue(
        self,
        identity: Identity,
        addresses: Sequence[str],
        now: datetime,
        life: timedelta = LIFE,
        *,
        renew: bool = False,
    ) -> Held:
        """A key and a certificate in ``ROLEs/LABEL.crt`` and ``.key``; Conflict where there is one already."""
        path = self.directory / f"{identity.role.value}s" / f"{identity.label}.crt"
        if path.exists() and not renew:
            raise Conflict(f"{path} is there already; `weft ca renew` renews it")
        key = make_key()
        issuer = self._issuer_of(identity.role)
        certificate = issue(issuer, identity, key.public_key(), addresses, now, life)
        # Whoever reads them in between finds a pair that does not fit, and looks again.
        files.write(path.with_suffix(".key"), key_pem(key), secret=True)
        files.write(path, self._with_chain(certificate, issuer))
        return Held(_name(identity), identity, certificate, path)

    def renew(self, now: datetime, within: timedelta, names: Sequence[str] = ()) -> list[Held]:
        """Anew what ends ``within`` that time, authorities first, for as long as it was made for. names: only these.

        An authority keeps its key, so that what it has signed stays good; everybody else gets another.
        """
        held = self.held()
        known = {each.name for each in held}
        for name in names:
            if name not in known:
                raise Missing(f"there is no certificate {name} in {self.directory}; `weft ca list` lists them")
        wanted = [
            each for each in held if (each.name in names if names else each.certificate.not_after - now <= within)
        ]
        return [self._renew(each, now) for each in wanted]

    def _renew(self, held: Held, now: datetime) -> Held:
        life = held.certificate.not_after - held.certificate.not_before
        if held.identity is not None:
            return self.issue(held.identity, held.certificate.addresses, now, life, renew=True)
        key = read_key(files.read(held.key_path))
        name = held.certificate.parsed.subject.rfc4514_string().removeprefix("CN=")
        if held.name == "hosts":
            certificate = make_issuer(self.root(), name, Role.HOST, now, life, key).certificate
        else:
            certificate = make_root(name, now, life, key).certificate
            bundle = self.ca if held.name == "root" else self.etcd_ca
            files.write(bundle, certificate.pem)
        files.write(held.path, certificate.pem)
        return Held(held.name, None, certificate, held.path)

    def held(self) -> list[Held]:
        """Every certificate there is, authorities first."""
        found = [
            Held(name, None, Certificate.of_pem(files.read(path)), path)
            for name in ("root", "hosts", "etcd-root")
            if (path := self.directory / f"{name}.crt").is_file()
        ]
        return [*found, *self._holders()]

    def _holders(self) -> Iterator[Held]:
        for role in Role:
            for path in sorted((self.directory / f"{role.value}s").glob("*.crt")):
                identity = Identity(role, path.name.removesuffix(".crt"))
                yield Held(_name(identity), identity, Certificate.of_pem(files.read(path)), path)

    def _issuer(self, name: str, role: Role | None = None) -> Issuer:
        certificate = Certificate.of_pem(files.read(self.directory / f"{name}.crt"))
        return Issuer(certificate, read_key(files.read(self.directory / f"{name}.key")), role)

    def _issuer_of(self, role: Role) -> Issuer:
        match role:
            case Role.HOST:
                return self.hosts()
            case Role.ETCD_SERVER | Role.ETCD_CLIENT:
                return self.etcd_root()
            case Role.ADMIN | Role.OPERATOR | Role.CONTROLLER:
                return self.root()

    def _with_chain(self, certificate: Certificate, issuer: Issuer) -> bytes:
        """What its holder shows: itself, and what is between it and the root."""
        return certificate.pem + (issuer.certificate.pem if issuer.of is not None else b"")


def _name(identity: Identity) -> str:
    return f"{identity.role.value}/{identity.label}"
