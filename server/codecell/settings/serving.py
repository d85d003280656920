"""The settings of what is served over HTTP, and to whom."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, model_validator

from codecell.settings.sections import MIB, Count, Seconds, Section, Size

Origin = Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]
HostName = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(\d+|\*))?$")]


class HttpSettings(Section):
    """Streamable HTTP and SSE."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="Port to listen on; 0 takes a free one"
    )
    sse: bool = Field(
        default=True, description="Serve SSE (`/sse`) beside Streamable HTTP (`/mcp`)"
    )
    hosts: tuple[HostName, ...] = Field(
        (),
        description="Names that clients reach this server by (their Host header), NAME or "
        "NAME:PORT; loopback names need no entry while it listens on loopback",
    )
    origins: tuple[Origin, ...] = Field(
        (), description="Web origins whose pages may call this server, such as https://example.org"
    )
    tokens: Path | None = Field(
        None, description="File of hashed bearer tokens (`codecell token add`); none: no tokens"
    )
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) for serving TLS")
    tls_key: Path | None = Field(None, description="Its private key (PEM)")
    plain: bool = Field(
        default=False,
        description="Serve plain HTTP beyond loopback: a proxy in front ends TLS",
    )
    body: Size | None = Field(
        None,
        description="Largest request body; by default 1 MiB and twice what a request may carry",
    )
    bodies: Size = Field(
        ByteSize(256 * MIB), description="Memory that request bodies may take together"
    )
    request_timeout_s: Seconds = Field(
        30.0, description="Time for a whole request, header and body, to arrive, in seconds"
    )
    write_timeout_s: Seconds = Field(
        30.0, description="Time that a client may leave an answer unread, in seconds"
    )
    keep_alive_s: Count = Field(
        15, description="Time that a connection without a request is kept, in seconds"
    )
    connections: Count = Field(512, description="Connections at a time; a further one gets 503")
    sessions: Count = Field(
        2048, description="MCP sessions at a time (handshake era); they end after 30 idle minutes"
    )

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("http.tls_cert and http.tls_key go together")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def tls(self) -> bool:
        """Whether this server ends TLS itself."""
        return self.tls_cert is not None


class OAuthSettings(Section):
    """Access tokens of an OAuth 2.1 issuer (this server is the resource)."""

    issuer: str | None = Field(
        None, description="Issuer whose access tokens (JWT) are accepted; none: no OAuth"
    )
    audience: str | None = Field(
        None,
        description="This server's own address, which tokens must be made for, such as "
        "https://codecell.example.org/mcp",
    )
    jwks_url: str | None = Field(None, description="Where the issuer's keys are (JWKS)")
    algorithms: tuple[
        Literal[
            "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
        ],
        ...,
    ] = Field(("RS256", "ES256", "EdDSA"), description="Signatures that are accepted")
    scope_prefix: str = Field(
        "", description="What stands before a scope in its tokens, such as `codecell:`"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.issuer is None:
            if self.audience is not None or self.jwks_url is not None:
                raise ValueError("oauth.audience and oauth.jwks_url need oauth.issuer")
            return self
        for key in ("audience", "jwks_url"):
            if getattr(self, key) is None:
                raise ValueError(f"oauth.issuer needs oauth.{key}")
        for key in ("issuer", "audience", "jwks_url"):
            url = urlsplit(getattr(self, key))
            local = url.hostname in ("localhost", "127.0.0.1", "::1")
            if url.scheme != "https" and not (url.scheme == "http" and local):
                raise ValueError(f"oauth.{key} must be an https address")
        if not self.algorithms:
            raise ValueError("oauth.algorithms is empty")
        return self


class CallerSettings(Section):
    """One `[callers.NAME]`: what a caller may use; `default` is for all that are not named."""

    policy: str | None = Field(
        None, description="Policy it is under; by default that of callers.default, or `default`"
    )
    runs_per_minute: Count | None = Field(None, description="Runs it may start in a minute")
    cpu_s_per_minute: Seconds | None = Field(
        None, description="CPU seconds that its runs may use in a minute"
    )
    concurrent: Count | None = Field(None, description="Runs of its own in flight at a time")
    sessions: Count | None = Field(None, description="Sessions it may keep at a time")
