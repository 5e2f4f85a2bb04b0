"""Which store a URL means. Opens it; never makes a file or a key before it is told to."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from weft.contracts.cluster import Cluster
from weft.contracts.store import Store
from weft.kit.errors import Rejected
from weft.store.alone import Alone
from weft.store.etcd import EtcdStore
from weft.store.etcd_client import Address
from weft.store.etcd_cluster import EtcdCluster
from weft.store.sqlite import SqliteStore

DEFAULT_STORE = "sqlite:///var/lib/weft/controller.db"
ETCD_EXAMPLE = "etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/weft"

_FILES = {"ca": "ca", "cert": "certificate", "key": "key"}


def open_store(url: str) -> Store:
    """Blocks while a file is opened; etcd is not asked before the first call."""
    if is_etcd(url):
        return EtcdStore(etcd_address(url))
    return SqliteStore(sqlite_path(url))


def open_cluster(url: str, advertised: str) -> Cluster:
    """Those who share the store at ``url``; they reach this one at ``advertised``."""
    return EtcdCluster(etcd_address(url), advertised) if is_etcd(url) else Alone()


def shown(url: str) -> str:
    """For logs: without what only etcd is to know."""
    return url.partition("?")[0]


def certificate(url: str) -> Path | None:
    """What is shown to etcd to come in."""
    return etcd_address(url).certificate if is_etcd(url) else None


def is_etcd(url: str) -> bool:
    return urlsplit(url).scheme in ("etcd", "etcds")


def sqlite_path(url: str) -> Path:
    """The file of ``sqlite:///path``, of ``sqlite:path`` or of a path alone."""
    parts = urlsplit(url)
    if not parts.scheme:
        return Path(url)
    if parts.scheme == "sqlite" and not parts.netloc and parts.path not in ("", "/"):
        return Path(unquote(parts.path))
    raise Rejected(f"'{url}' is not a store such as {DEFAULT_STORE}, a path or {ETCD_EXAMPLE}", "store")


def etcd_address(url: str) -> Address:
    """``etcd://host:port,host:port[/prefix]``; ``etcds://`` over TLS, with ?ca=, cert=, key= as paths of PEM files; and
    ?user=, password-file= where etcd wants to know who comes.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    secure = parts.scheme == "etcds"
    nodes = [node for node in parts.netloc.split(",") if node]
    if not nodes or any("@" in node for node in nodes):
        raise Rejected(f"'{url}' is not a store such as {ETCD_EXAMPLE}", "store")
    files = {field: Path(query.pop(key)) for key, field in _FILES.items() if key in query}
    if files and not secure:
        raise Rejected(f"{', '.join(sorted(files))}: for etcds:// only; '{url}' is without TLS", "store")
    user, secret = query.pop("user", None), query.pop("password-file", None)
    for key in query:
        raise Rejected(f"'{url}': there is no {key!r}; there are ca, cert, key, user, password-file", "store")
    password = None
    if secret is not None:
        try:
            password = Path(secret).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Rejected(f"the password for etcd cannot be read: {error}", "store") from error
    scheme = "https" if secure else "http"
    return Address(
        tuple(f"{scheme}://{node if _has_port(node) else node + ':2379'}" for node in nodes),
        unquote(parts.path).rstrip("/") or "/weft",
        files.get("ca"),
        files.get("certificate"),
        files.get("key"),
        user,
        password,
    )


def _has_port(node: str) -> bool:
    return node.rpartition(":")[2].isdigit() and not node.endswith("]")
