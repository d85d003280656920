"""OAuth 2.1 resource server: access tokens are JWTs, judged by issuer, audience and signature.

The keys come from the issuer's JWKS, over HTTPS (or loopback), bounded in time and size. They are
kept for some minutes, and fetched anew, at most every few seconds, for a key that is not known.
"""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import jwt
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from codecell.callers import ALL_SCOPES, Caller, known_scopes, oauth_name
from codecell.settings import OAuthSettings

log = structlog.get_logger()

METADATA_PATH = "/.well-known/oauth-protected-resource"
_MAX_JWKS_BYTES = 256 * 1024
_FETCH_WITHIN_S = 5.0
_KEYS_KNOWN_FOR_S = 300.0
_FETCH_EVERY_S = 5.0
_MAX_TOKEN_CHARS = 16_384
_LEEWAY_S = 30


class Keys:
    """An issuer's keys; usable from several threads.

    Args:
        url: of the JWKS.
        clock: seconds, monotonic.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")

    def get(self, key_id: str | None) -> jwt.PyJWK | None:
        """Return a key by the id that a token's header names; without one, the only key."""
        with self._lock:
            now = self._clock()
            old = now - self._fetched_at > _KEYS_KNOWN_FOR_S
            if (old or self._find(key_id) is None) and now - self._tried_at > _FETCH_EVERY_S:
                self._tried_at = now
                self._fetch(now)
            return self._find(key_id)

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    def _fetch(self, now: float) -> None:
        """Replace the keys; those that are known stay where this fails."""
        try:
            found = jwt.PyJWKSet.from_json(_get(self._url).decode())
        except (OSError, ValueError, jwt.PyJWTError) as error:
            log.error("can't fetch the issuer's keys", url=self._url, error=str(error))  # noqa: TRY400  expected kinds
            return
        self._keys = {key.key_id: key for key in found.keys if key.public_key_use in (None, "sig")}
        self._fetched_at = now


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: the keys are where the operator said, or nowhere."""


def _get(url: str) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    with opener.open(
        url, timeout=_FETCH_WITHIN_S
    ) as answer:  # the settings allow https and loopback
        body: bytes = answer.read(_MAX_JWKS_BYTES + 1)
    if len(body) > _MAX_JWKS_BYTES:
        raise ValueError("the key set is too large")
    return body


class OAuth:
    """Tells whom an access token names.

    Args:
        settings: the `oauth` section; `issuer` is set.
        keys: of the issuer; by default fetched from `jwks_url`.
    """

    def __init__(self, settings: OAuthSettings, keys: Keys | None = None) -> None:
        self._settings = settings
        self._keys = keys if keys is not None else Keys(str(settings.jwks_url))

    async def caller(self, token: str) -> Caller | None:
        """Return the caller, or None for a token that is not valid here."""
        if len(token) > _MAX_TOKEN_CHARS:
            return None
        return await anyio.to_thread.run_sync(self._judge, token)

    def _judge(self, token: str) -> Caller | None:
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            # Before any key is fetched: `none` and the symmetric ones are never on the list.
            if header.get("alg") not in settings.algorithms:
                return None
            key = self._keys.get(header.get("kid"))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key=key.key,
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.info("an access token was refused", reason=type(error).__name__)
            return None
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject:
            return None
        return Caller(oauth_name(subject), self._scopes(claims))

    def _scopes(self, claims: dict[str, Any]) -> frozenset[Any]:
        """Return the scopes that a token grants; `scope` is a string (RFC 9068), `scp` a list."""
        given = claims.get("scope", claims.get("scp", ""))
        words = given.split() if isinstance(given, str) else given
        if not isinstance(words, list):
            return frozenset()
        prefix = self._settings.scope_prefix
        return known_scopes(
            word.removeprefix(prefix)
            for word in words
            if isinstance(word, str) and word.startswith(prefix)
        )


def metadata_route(settings: OAuthSettings) -> Route:
    """Return the route of the protected resource metadata (RFC 9728)."""
    body = {
        "resource": settings.audience,
        "authorization_servers": [settings.issuer],
        "scopes_supported": [settings.scope_prefix + scope for scope in sorted(ALL_SCOPES)],
        "bearer_methods_supported": ["header"],
        "resource_name": "codecell",
    }

    async def metadata(_: Request) -> JSONResponse:
        return JSONResponse(body, headers={"cache-control": "public, max-age=300"})

    # A client asks for it with the resource's own path behind, or without (RFC 9728, section 3.1).
    return Route(METADATA_PATH + "{path:path}", metadata)
