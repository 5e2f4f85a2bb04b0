"""What is said in the name of an issuer: which of it is believed."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from weft.controller.authorisation import Denied, Role, Verdict
from weft.controller.oidc import Grant, Oidc, Settings, read_settings
from weft.kit.errors import Rejected, Retry
from weft.model.names import Name

NOW_S = 1_700_000_000.0
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


@dataclass
class Issuer:
    """Answers two questions over HTTP, as an issuer does."""

    keys: list[dict[str, Any]]
    now_s: float = NOW_S
    url: str = ""
    asked: int = 0
    mute: bool = False
    oidc: Oidc = field(init=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        self.asked += line.split()[1] == b"/keys"
        found = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} if b"well-known" in line else {"keys": self.keys}
        body = b"x" if self.mute else json.dumps(found).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        writer.close()

    def claims(self, **more: Any) -> dict[str, Any]:
        said = {"iss": self.url, "aud": "weft", "sub": "ann", "groups": ["g", "ops"], "exp": self.now_s + 60, **more}
        return {name: value for name, value in said.items() if value is not None}

    def token(self, key: Any = RSA, kid: str | None = "r", alg: str = "RS256", **more: Any) -> str:
        return jwt.encode(self.claims(**more), key, alg, {} if kid is None else {"kid": kid})


@asynccontextmanager
async def issuer(*keys: dict[str, Any]) -> AsyncIterator[Issuer]:
    it = Issuer(list(keys or (jwk(RSA, "r"), jwk(EC, "e"))))
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    async with server:
        it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        grants = (
            Grant("groups", "ops", Role.OPERATOR),
            Grant("team", "blue", Role.TENANT_READER, Name("tenants/blue")),
        )
        it.oidc = Oidc(Settings(it.url, "weft", grants), lambda: it.now_s)
        yield it


async def verdict(it: Issuer, token: str) -> Role | Verdict | None:
    try:
        found = await it.oidc.bearer(token)
    except Denied as denied:
        return denied.verdict
    return found.role if found else None


async def test_who_is_signed_for_has_the_role_of_the_first_grant() -> None:
    async with issuer() as it:
        assert await verdict(it, it.token()) is Role.OPERATOR
        assert await verdict(it, it.token(EC, "e", "ES256")) is Role.OPERATOR
        assert await verdict(it, it.token(alg="PS256")) is Role.OPERATOR
        assert await verdict(it, it.token(groups=None, team="blue")) is Role.TENANT_READER
        assert await verdict(it, it.token(groups="ops")) is Role.OPERATOR
        assert await verdict(it, it.token(groups=["opsy"])) is Verdict.FORBIDDEN
        assert await verdict(it, it.token(aud=["other", "weft"])) is Role.OPERATOR
        assert it.asked == 1


@pytest.mark.parametrize(
    "more",
    [
        {"aud": "another"},
        {"aud": None},
        {"exp": NOW_S - 31},
        {"exp": None},
        {"exp": "never"},
        {"nbf": NOW_S + 31},
        {"sub": None},
        {"kid": "unknown"},
        {"kid": None},  # there are two keys
        {"kid": "e"},  # another's key than that which has signed
    ],
)
async def test_what_is_not_for_us_or_not_now_is_not_good(more: dict[str, Any]) -> None:
    async with issuer() as it:
        assert await verdict(it, it.token(**more)) is Verdict.UNKNOWN


async def test_a_token_does_not_choose_how_it_is_checked() -> None:
    async with issuer() as it:
        public = RSA.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

        def part(value: dict[str, Any]) -> bytes:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

        def forged(alg: str) -> str:
            import hashlib
            import hmac

            said = part({"alg": alg, "typ": "JWT", "kid": "r"}) + b"." + part(it.claims())
            signature = base64.urlsafe_b64encode(hmac.new(public, said, hashlib.sha256).digest()).rstrip(b"=")
            return (said + b"." + (b"" if alg == "none" else signature)).decode()

        for alg in ("none", "HS256", "ES256"):
            assert await verdict(it, forged(alg)) is Verdict.UNKNOWN


async def test_what_is_anothers_is_left_to_others() -> None:
    async with issuer() as it:
        assert await verdict(it, it.token(iss="https://another")) is None
        for nonsense in ("a.b.c", "weft_a_b", "", "..", "\u00e9.\u00e9.\u00e9", it.token() + "x" * 20_000):
            assert await verdict(it, nonsense) is None
        assert it.asked == 0


async def test_keys_that_nobody_has_cost_one_question_in_a_while() -> None:
    async with issuer() as it:
        for number in range(20):
            assert await verdict(it, it.token(kid=f"made-up-{number}")) is Verdict.UNKNOWN
        assert it.asked == 1


async def test_keys_are_asked_for_again_when_one_is_new_and_when_they_are_old() -> None:
    async with issuer(jwk(RSA, "r")) as it:
        assert await verdict(it, it.token()) is Role.OPERATOR
        it.keys = [jwk(EC, "e")]
        it.now_s += 16
        assert await verdict(it, it.token(EC, "e", "ES256")) is Role.OPERATOR
        assert await verdict(it, it.token()) is Verdict.UNKNOWN
        it.keys = []
        it.now_s += 3601
        assert await verdict(it, it.token(EC, "e", "ES256")) is Verdict.UNKNOWN


async def test_while_the_issuer_is_away_its_keys_are_good_for_a_day() -> None:
    async with issuer() as it:
        assert await verdict(it, it.token()) is Role.OPERATOR
        it.mute = True
        it.now_s += 80_000
        assert await verdict(it, it.token()) is Role.OPERATOR
        it.now_s += 10_000
        with pytest.raises(Retry, match="too old"):
            await verdict(it, it.token())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"aud": "another"}, "the token is not good: it is for 'another', and here those for 'weft' are"),
        ({"groups": ["none"]}, "ann has no role here: no grant is for what the token says in groups, team"),
    ],
)
async def test_who_is_refused_is_told_what_the_token_says_and_what_would_do(more: dict[str, Any], message: str) -> None:
    async with issuer() as it:
        with pytest.raises(Denied, match=message):
            await it.oidc.bearer(it.token(**more))


async def test_keys_for_something_else_sign_nobody() -> None:
    async with issuer(jwk(RSA, "r", use="enc"), {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}) as it:
        assert await verdict(it, it.token()) is Verdict.UNKNOWN
        assert await verdict(it, it.token("secret" * 10, "s", "HS256")) is Verdict.UNKNOWN


GOOD = "issuer: https://login.example\naudience: weft\ngrants:\n- {claim: groups, value: netops, role: operator}\n"


def test_settings_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "o").write_text(GOOD)
    found = read_settings(tmp_path / "o")
    assert found.grants == (Grant("groups", "netops", Role.OPERATOR),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("https://login", "http://login"), "an issuer is at https"),
        (("operator", "king"), r"o: grants\[0\].role: 'king' is no role of users"),
        (("operator", "host"), "is no role of users"),
        (("operator", "tenant-admin"), r"o: grants\[0\].tenant: a grant of tenant-admin names a tenant"),
        (("operator}", "tenant-admin, tenant: Blue!}"), r"o: grants\[0\].tenant: 'Blue!' is not a DNS label"),
        (("operator}", "operator, tenant: blue}"), "names no tenant"),
        (
            ("audience", "audiences"),
            "does not say how to know users: audiences: the file has no such field, but audience; it has issuer, ",
        ),
        (("audience: weft", ""), "does not say how to know users: audience: this field is needed"),
        (("claim", "claims"), r"grants\[0\].claims: grants\[0\] has no such field, but claim; it has claim, value, "),
        (("value: netops, ", ""), r"does not say how to know users: grants\[0\].value: this field is needed"),
        (("netops", "[netops]"), r'grants\[0\].value: \["netops"\]: expected a string, got a list'),
        (("\n- {claim: groups, value: netops, role: operator}", " []"), "grants is empty, so nobody could do anything"),
        ((GOOD, ""), "does not say how to know users: null: expected a mapping, got nothing"),
        (("audience:", "ca: /nowhere.crt\naudience:"), "ca /nowhere.crt does not say whom .*: No such file"),
        (("audience:", "ca: /etc/hostname\naudience:"), "ca /etc/hostname .*: it holds no certificate in PEM"),
        (("issuer", "["), "does not say how"),
    ],
)
def test_settings_that_are_not_right_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "o").write_text(GOOD.replace(*change))
    with pytest.raises(Rejected, match=message):
        read_settings(tmp_path / "o")
