"""OAuth access tokens: what is accepted, and everything that must not be."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from mcp.server import Server
from starlette.datastructures import Headers
from tests.issuer import KeySet, ec_key, served

from codecell.callers import Caller, Scope
from codecell.errors import ConfigurationError
from codecell.http.app import build_app
from codecell.http.bearer import Bearer
from codecell.http.oauth import Keys, OAuth, metadata_route
from codecell.settings import OAuthSettings, Settings, load

pytestmark = pytest.mark.anyio

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ISSUER, AUDIENCE = "https://issuer.example", "https://codecell.example/mcp"


@pytest.fixture
def issuer() -> Iterator[KeySet]:
    rsa_key = json.loads(RSAAlgorithm.to_jwk(RSA.public_key())) | {"kid": "r", "use": "sig"}
    with served(rsa_key, ec_key(EC, "e")) as begun:
        yield begun


@pytest.fixture
def settings(issuer: KeySet) -> OAuthSettings:
    return OAuthSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=issuer.url)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    given = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": now + 3600,
        "scope": "execute read",
    }
    return {key: value for key, value in (given | changed).items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "r", **changed: Any) -> str:
    return jwt.encode(
        claims(**changed), key, algorithm=algorithm, headers={"kid": kid} if kid else None
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"key": EC, "algorithm": "ES256", "kid": "e"},
        {"aud": ["https://other.example", AUDIENCE]},
        {"scope": None, "scp": ["execute", "read"]},
    ],
)
async def test_a_valid_token_names_its_subject(settings: OAuthSettings, given: Any) -> None:
    caller = await OAuth(settings).caller(token(**given))
    assert caller == Caller("oauth:ann", frozenset({Scope.EXECUTE, Scope.READ}))


async def test_clocks_may_differ_a_little(settings: OAuthSettings) -> None:
    assert await OAuth(settings).caller(token(exp=int(time.time()) - 5))
    assert await OAuth(settings).caller(token(exp=int(time.time()) - 60)) is None


def forged(header: dict[str, Any], signature: bytes = b"") -> str:
    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).decode().rstrip("=")

    return ".".join(
        [part(json.dumps(header).encode()), part(json.dumps(claims()).encode()), part(signature)]
    )


def signed_with_the_public_key() -> str:
    """Return the classic confusion: an HMAC whose secret is the RSA key that everybody knows."""
    import hashlib
    import hmac

    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = forged({"alg": "HS256", "kid": "r"}).rpartition(".")[0]
    mac = hmac.new(pem, body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


@pytest.mark.requirement("http:oauth")
@pytest.mark.parametrize(
    "given",
    [
        token(iss="https://evil.example"),
        token(iss=None),
        token(aud="https://other.example"),
        token(aud=None),
        token(exp=int(time.time()) - 60),
        token(exp=None),
        token(sub=None),
        token(sub=""),
        token(nbf=int(time.time()) + 86_400, exp=int(time.time()) + 172_800),
        token(key=OTHER),
        token(kid="unknown"),
        token(kid=None),
        token(key=RSA, algorithm="RS384"),
        token(key=RSA, algorithm="PS256"),
        token(key=EC, algorithm="ES256", kid="r"),
        forged({"alg": "none"}),
        forged({"alg": "None", "kid": "r"}),
        forged({"alg": "RS256", "kid": "r"}),
        forged({"alg": "RS256", "kid": ["r"]}),
        forged({"alg": ["RS256"], "kid": "r"}),
        signed_with_the_public_key(),
        token()[:-4] + "AAAA",
        "a.b.c",
        "",
        "x" * 20_000,
    ],
)
async def test_what_must_not_pass(settings: OAuthSettings, given: str) -> None:
    assert await OAuth(settings).caller(given) is None


async def test_scopes_are_those_of_ours_alone(settings: OAuthSettings) -> None:
    prefixed = settings.model_copy(update={"scope_prefix": "codecell:"})
    given = token(scope="codecell:execute execute openid codecell:root codecell:operate")
    caller = await OAuth(prefixed).caller(given)
    assert caller is not None
    assert caller.scopes == {Scope.EXECUTE, Scope.OPERATE}
    for nothing in (None, "", 7, {"execute": True}, ["root", 3]):
        caller = await OAuth(settings).caller(token(scope=nothing))
        assert caller is not None
        assert not caller.scopes


async def test_keys_are_fetched_seldom_and_anew_for_an_unknown_one(
    settings: OAuthSettings, issuer: KeySet
) -> None:
    now = [0.0]
    oauth = OAuth(settings, Keys(issuer.url, lambda: now[0]))
    for _ in range(5):
        assert await oauth.caller(token())
    assert issuer.asked == 1
    for _ in range(5):  # an attacker's key ids are no way to have us ask without end
        assert await oauth.caller(token(kid="new")) is None
    assert issuer.asked == 1
    issuer.keys[0]["kid"] = "new"
    now[0] += 6
    assert await oauth.caller(token(kid="new"))
    assert issuer.asked == 2
    now[0] += 301
    issuer.status = 500
    assert await oauth.caller(token(kid="new"))  # the issuer is away: what is known stays
    assert issuer.asked == 3


@pytest.mark.parametrize("body", [b"{", b'{"keys": 1}', b"\xff", b" " * 300_000])
async def test_a_key_set_that_is_none(settings: OAuthSettings, issuer: KeySet, body: bytes) -> None:
    issuer.body = body
    assert await OAuth(settings).caller(token()) is None


async def test_redirects_are_not_followed(settings: OAuthSettings, issuer: KeySet) -> None:
    issuer.status = 302
    assert await OAuth(settings).caller(token()) is None
    assert issuer.asked == 1


async def test_a_key_for_encryption_signs_nothing(settings: OAuthSettings, issuer: KeySet) -> None:
    issuer.keys[0]["use"] = "enc"
    assert await OAuth(settings).caller(token()) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"issuer": ISSUER}, "oauth.issuer needs oauth.audience"),
        ({"audience": AUDIENCE}, "need oauth.issuer"),
        ({"issuer": "http://x.example", "audience": AUDIENCE, "jwks_url": ISSUER}, "https"),
        ({"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": "file:///etc/passwd"}, "https"),
        (
            {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": ISSUER, "algorithms": ["HS256"]},
            "oauth.algorithms",
        ),
        (
            {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": ISSUER, "algorithms": ["none"]},
            "oauth.algorithms",
        ),
    ],
)
def test_settings_that_would_be_unsafe(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load(flags={"oauth": given})


async def test_a_client_finds_the_issuer(settings: OAuthSettings) -> None:
    app = build_app(
        Server("test"),
        Settings(),
        authenticate=Bearer(None, OAuth(settings), AUDIENCE),
        open_routes=[metadata_route(settings)],
    )
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8000"
        ) as client,
    ):
        refused = await client.post("/mcp")
        challenge = refused.headers["www-authenticate"]
        assert refused.status_code == 401
        url = challenge.split('resource_metadata="')[1].rstrip('"')
        assert url == "https://codecell.example/.well-known/oauth-protected-resource/mcp"
        found = await client.get(url.removeprefix("https://codecell.example"))
        bad = await client.post("/mcp", headers={"authorization": "Bearer x.y.z"})
    assert found.json()["authorization_servers"] == [ISSUER]
    assert found.json()["resource"] == AUDIENCE
    assert 'error="invalid_token"' in bad.headers["www-authenticate"]
    assert isinstance(await Bearer(None, OAuth(settings))(_shown(token())), Caller)


def _shown(value: str) -> Headers:
    return Headers({"authorization": f"Bearer {value}"})
