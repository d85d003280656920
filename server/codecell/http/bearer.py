"""Who a request's bearer token names: a token of the file's, or one of an OAuth issuer's."""

import structlog
from starlette.datastructures import Headers

from codecell.callers import Caller
from codecell.errors import ConfigurationError
from codecell.http.gate import Refusal
from codecell.http.oauth import METADATA_PATH, OAuth
from codecell.http.tokens import PREFIX, TokenFile

log = structlog.get_logger()


class Bearer:
    """Authenticates by the Authorization header alone; never by a query or a cookie.

    Args:
        tokens: the file, if there is one.
        oauth: the issuer, if there is one.
        resource: this server's own address as the issuer knows it, for the metadata's.
    """

    def __init__(
        self, tokens: TokenFile | None, oauth: OAuth | None = None, resource: str | None = None
    ) -> None:
        self._tokens = tokens
        self._oauth = oauth
        self._metadata = _metadata_url(resource) if resource is not None else None

    async def __call__(self, headers: Headers) -> Caller | Refusal:
        """Name the caller, or say what is missing without saying what was wrong."""
        given = headers.getlist("authorization")
        if not given:
            return self._refusal("A bearer token is needed: Authorization: Bearer TOKEN.", "")
        scheme, _, token = given[0].partition(" ")
        token = token.strip()
        if len(given) != 1 or scheme.lower() != "bearer" or not token:
            return self._refusal(
                "The Authorization header must be: Bearer TOKEN.", "invalid_request"
            )
        caller = None
        if token.startswith(PREFIX):
            try:
                caller = self._tokens.caller(token) if self._tokens is not None else None
            except ConfigurationError as error:
                log.error("nobody can be authenticated", error=str(error))  # noqa: TRY400  one sentence
                return Refusal(503, "The token file can't be used; the server's log says why.")
        elif self._oauth is not None:
            caller = await self._oauth.caller(token)
        if caller is None:
            return self._refusal("This token is not valid here.", "invalid_token")
        return caller

    def _refusal(self, text: str, error: str) -> Refusal:
        parts = [f'error="{error}"'] if error else []
        if self._metadata is not None:
            parts.append(f'resource_metadata="{self._metadata}"')
        challenge = " ".join(["Bearer", ", ".join(parts)]).strip()
        return Refusal(401, text, {"www-authenticate": challenge})


def _metadata_url(resource: str) -> str:
    """Return where the metadata of a resource is: its path comes behind (RFC 9728)."""
    scheme, _, rest = resource.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{METADATA_PATH}{slash}{path}".rstrip("/")
