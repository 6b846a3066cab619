"""Tokens that another system signs: who they are for, how long they last, and what cannot be made to pass as one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from edges import jwt as tokens
from edges.auth import require
from edges.jwt import JwtSettings
from eventstore.schema import OrgId
from tests.support.edge_app import Edge, serving

SECRET = "a secret that the issuer shares, long enough for every HMAC there is."
RSA = rsa.generate_private_key(65537, 2048)
SMALL_RSA = rsa.generate_private_key(65537, 1024)
ED = ed25519.Ed25519PrivateKey.generate()


async def whoami(request: web.Request) -> web.Response:
    caller = await require(request, "events:read")
    return web.json_response({"org": caller.org, "actor": caller.actor, "scopes": sorted(caller.scopes)})


WHOAMI = web.get("/v1/whoami", whoami)


def claims(**changes: Any) -> dict[str, Any]:
    given = {"sub": "user-7", "org": "demo", "scope": "events:read", "exp": int(time.time()) + 60, **changes}
    return {name: value for name, value in given.items() if value is not None}


def hs256(**changes: Any) -> str:
    return jwt.encode(claims(**changes), SECRET, "HS256")


async def ask(edge: Edge, token: str) -> tuple[int, Any]:
    response = await edge.client.get("/v1/whoami", headers={"Authorization": f"Bearer {token}"})
    return response.status, await response.json()


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with serving(WHOAMI, jwt=JwtSettings(SECRET)) as edge:
        yield edge


async def test_a_token_tells_who_asks_for_which_organization_with_which_rights(edge: Edge) -> None:
    status, body = await ask(edge, hs256(scope="events:read chat:write unheard:of"))
    assert (status, body) == (200, {"org": "demo", "actor": "client:user-7", "scopes": ["chat:write", "events:read"]})


async def test_a_key_works_beside_tokens(edge: Edge) -> None:
    key = await edge.organizations.create_key(OrgId("demo"))
    assert (await ask(edge, key))[0] == 200


async def test_a_token_without_the_scope_is_forbidden(edge: Edge) -> None:
    assert (await ask(edge, hs256(scope="chat:write")))[0] == 403
    assert (await ask(edge, hs256(scope=None)))[0] == 403


async def test_the_clocks_may_differ_by_a_little(edge: Edge) -> None:
    now = int(time.time())
    assert (await ask(edge, hs256(exp=now - tokens.LEEWAY_S // 2, nbf=now + tokens.LEEWAY_S // 2)))[0] == 200
    assert (await ask(edge, hs256(exp=now - tokens.LEEWAY_S - 2)))[0] == 401
    assert (await ask(edge, hs256(nbf=now + tokens.LEEWAY_S + 5)))[0] == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None}, {"exp": "soon"}, {"exp": []}, {"exp": float("inf")}, {"sub": None}, {"sub": 7}, {"sub": ""},
        {"sub": "a b"}, {"sub": "x" * 129}, {"sub": "ä"}, {"org": None}, {"org": "nowhere"}, {"org": ["demo"]},
        {"org": "../demo"}, {"org": "demo:keys"}, {"scope": ["events:read"]},
    ],
    ids=str,
)  # fmt: skip
async def test_a_token_that_lacks_something_is_refused(edge: Edge, changes: dict[str, Any]) -> None:
    await edge.organizations.create_key(OrgId("demo"))  # whose list is no organization, though named like one
    status, body = await ask(edge, hs256(**changes))
    assert status == 401
    assert "Traceback" not in json.dumps(body)


def forged() -> dict[str, str]:
    good = hs256()
    head, body, _ = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return {
        "another secret": jwt.encode(claims(), SECRET + "!", "HS256"),
        "no signature": f"{head}.{body}.",
        "alg none": f"{none}.{body}.",
        "another algorithm": jwt.encode(claims(), SECRET, "HS512"),
        "an asymmetric one": jwt.encode(claims(), RSA, "RS256"),
        "no token": "a.b.c",
        "another body": f"{head}.{hs256(org='acme').split('.')[1]}.{good.split('.')[2]}",
    }


@pytest.mark.parametrize("name", forged())
async def test_a_forged_token_is_refused(edge: Edge, name: str) -> None:
    assert (await ask(edge, forged()[name]))[0] == 401


async def test_a_token_must_be_by_the_issuer_and_for_the_audience_that_are_configured() -> None:
    async with serving(WHOAMI, jwt=JwtSettings(SECRET, issuer="https://id.example", audience="trunkline")) as edge:
        good = {"iss": "https://id.example", "aud": ["trunkline", "other"]}
        assert (await ask(edge, hs256(**good)))[0] == 200
        for wrong in ({"iss": "https://evil.example"}, {"iss": None}, {"aud": "other"}, {"aud": None}):
            assert (await ask(edge, hs256(**{**good, **wrong})))[0] == 401


@pytest.mark.parametrize("audience", ["authenticated", ["trunkline"], ["a", "b"]], ids=str)
async def test_a_token_for_an_audience_is_refused_where_none_is_configured(edge: Edge, audience: object) -> None:
    status, body = await ask(edge, hs256(aud=audience))
    assert status == 401
    assert "TRUNKLINE_JWT_AUDIENCE" in body["detail"]


async def test_without_configuration_no_token_is_good() -> None:
    async with serving(WHOAMI) as edge:
        assert (await ask(edge, hs256()))[0] == 401


class Issuer:
    """Publishes keys, and can be away."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys
        self.asked = 0
        self.away = False
        self.extra: list[dict[str, Any]] = []

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.away:
            raise OSError("no route")
        published = [{**_jwk(key), "kid": name} for name, key in self.keys.items()]
        return json.dumps({"keys": [*self.extra, *published]}).encode()


def _jwk(private: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else jwt.algorithms.OKPAlgorithm
    published: dict[str, Any] = algorithm.to_jwk(private.public_key(), as_dict=True)
    return published


def signed(key: Any, name: str | None, algorithm: str) -> str:
    return jwt.encode(claims(), key, algorithm, headers={"kid": name} if name else None)


class Seconds:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_the_issuers_published_keys_verify_and_each_by_its_own_algorithm() -> None:
    issuer = Issuer(rsa=RSA, ed=ED)
    async with serving(WHOAMI, jwt=JwtSettings(fetch_keys=issuer.fetch)) as edge:
        assert (await ask(edge, signed(RSA, "rsa", "RS256")))[0] == 200
        assert (await ask(edge, signed(ED, "ed", "EdDSA")))[0] == 200
        assert issuer.asked == 1
        assert (await ask(edge, signed(RSA, "rsa", "PS256")))[0] == 401
        assert (await ask(edge, signed(RSA, "ed", "RS256")))[0] == 401
        assert (await ask(edge, signed(RSA, None, "RS256")))[0] == 401, "two keys, and it names none"


async def test_a_public_key_is_no_shared_secret() -> None:
    """The classic confusion: HS256 with the published key's own text as the secret."""
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    mac = base64.urlsafe_b64encode(hmac.digest(public, head + b"." + body, hashlib.sha256)).rstrip(b"=")
    async with serving(WHOAMI, jwt=JwtSettings(fetch_keys=Issuer(rsa=RSA).fetch)) as edge:
        assert (await ask(edge, (head + b"." + body + b"." + mac).decode()))[0] == 401


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_keys_that_are_not_for_this_are_ignored() -> None:
    issuer = Issuer(small=SMALL_RSA)
    issuer.extra = [
        {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
        {"kty": "RSA", "kid": "broken"},
        {**_jwk(RSA), "kid": "encryption", "use": "enc"},
        {**_jwk(RSA), "kid": "other", "alg": "RS512"},
    ]
    async with serving(WHOAMI, jwt=JwtSettings(fetch_keys=issuer.fetch)) as edge:
        for key, name, algorithm in (
            (SMALL_RSA, "small", "RS256"), (SECRET, "oct", "HS256"), (RSA, "encryption", "RS256"),
            (RSA, "other", "RS512"), (RSA, "other", "RS256"),
        ):  # fmt: skip
            assert (await ask(edge, signed(key, name, algorithm)))[0] == 401, name


async def test_a_new_key_is_learnt_when_a_token_names_it_but_the_issuer_is_not_asked_for_every_name() -> None:
    issuer, clock = Issuer(old=RSA), Seconds()
    async with serving(WHOAMI, jwt=JwtSettings(fetch_keys=issuer.fetch), clock=clock) as edge:
        assert (await ask(edge, signed(RSA, "old", "RS256")))[0] == 200
        issuer.keys = {"new": ED}
        clock.now += tokens.MIN_PAUSE_S
        assert (await ask(edge, signed(ED, "new", "EdDSA")))[0] == 200
        assert (await ask(edge, signed(RSA, "old", "RS256")))[0] == 401, "the issuer has withdrawn it"
        asked = issuer.asked
        for n in range(20):
            assert (await ask(edge, signed(RSA, f"guess-{n}", "RS256")))[0] == 401
        assert issuer.asked == asked


async def test_known_keys_are_believed_for_a_while_when_the_issuer_is_away() -> None:
    issuer, clock = Issuer(k=RSA), Seconds()
    async with serving(WHOAMI, jwt=JwtSettings(fetch_keys=issuer.fetch), clock=clock) as edge:
        assert (await ask(edge, signed(RSA, "k", "RS256")))[0] == 200
        issuer.away = True
        clock.now += tokens.MAX_STALE_S - 1
        assert (await ask(edge, signed(RSA, "k", "RS256")))[0] == 200
        clock.now += 2 + tokens.MIN_PAUSE_S
        assert (await ask(edge, signed(RSA, "k", "RS256")))[0] == 503


async def test_an_issuer_that_was_never_reached_is_503_and_not_a_bad_token() -> None:
    issuer = Issuer(k=RSA)
    issuer.away = True
    async with serving(WHOAMI, jwt=JwtSettings(fetch_keys=issuer.fetch)) as edge:
        assert (await ask(edge, signed(RSA, "k", "RS256")))[0] == 503
