"""Bearer tokens: a file of their hashes, and the callers that they name.

A token is `codecell_` and 256 random bits, so a plain SHA-256 of it can't be turned back, and needs
no salt. The file is read anew when it has changed: adding and removing apply to a running server.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codecell.callers import LOCAL, TOKEN_NAME, Caller, Scope, known_scopes
from codecell.errors import ConfigurationError

PREFIX = "codecell_"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Token:
    """One entry of the file.

    Attributes:
        name: the caller's.
        sha256: of the token, hexadecimal.
        scopes: what the caller may do.
        created: when, in UTC (ISO 8601).
    """

    name: str
    sha256: str
    scopes: frozenset[Scope]
    created: str


class TokenFile:
    """The tokens of one file.

    Args:
        path: of the file; it must not be readable or writable by others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._tokens: tuple[Token, ...] = ()

    def tokens(self) -> tuple[Token, ...]:
        """Return what stands in the file now.

        Raises:
            ConfigurationError: it isn't there, isn't private, or is not such a file.
        """
        try:
            found = self._path.stat()
        except OSError as error:
            raise ConfigurationError(
                f"http.tokens: can't read {self._path}: {error.strerror}"
            ) from error
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode, found.st_uid)
        if stamp != self._stamp:
            if found.st_mode & 0o077:
                raise ConfigurationError(
                    f"http.tokens: {self._path} is open to other users; chmod 600 it"
                )
            self._tokens, self._stamp = _parse(self._path), stamp
        return self._tokens

    def caller(self, token: str) -> Caller | None:
        """Return whom a token names; takes the same time whatever part of it is right.

        Raises:
            ConfigurationError: as `tokens`.
        """
        given = _hash(token).encode()
        named = None
        for known in self.tokens():
            if hmac.compare_digest(known.sha256.encode(), given):
                named = Caller(known.name, known.scopes)
        return named

    def add(self, name: str, scopes: Iterable[Scope]) -> str:
        """Make a token, keep its hash, and return it: it can't be shown again.

        Raises:
            ConfigurationError: the name is taken or not a name, or the file can't be written.
        """
        if not re.fullmatch(TOKEN_NAME.strip("^$"), name) or name == LOCAL.name:
            raise ConfigurationError(
                f"{name!r} can't be a caller's name: letters, digits, '.', '_' and '-', 64 at "
                f"most, beginning with a letter or digit, and not {LOCAL.name!r}"
            )
        tokens = self.tokens() if self._path.exists() else ()
        if any(token.name == name for token in tokens):
            raise ConfigurationError(f"there is a token for {name!r} already; remove it first")
        secret = PREFIX + secrets.token_urlsafe(32)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write((*tokens, Token(name, _hash(secret), frozenset(scopes), created)))
        return secret

    def remove(self, name: str) -> None:
        """Forget a token; who uses it is refused from now on.

        Raises:
            ConfigurationError: there is none of that name, or the file can't be written.
        """
        tokens = self.tokens()
        left = tuple(token for token in tokens if token.name != name)
        if len(left) == len(tokens):
            known = ", ".join(token.name for token in tokens) or "none"
            raise ConfigurationError(f"there is no token for {name!r}; there are: {known}")
        self._write(left)

    def _write(self, tokens: Iterable[Token]) -> None:
        """Replace the file as a whole: a reader sees the old one or the new one."""
        entries = [
            {
                "name": token.name,
                "sha256": token.sha256,
                "scopes": sorted(token.scopes),
                "created": token.created,
            }
            for token in tokens
        ]
        text = json.dumps({"version": _VERSION, "tokens": entries}, indent=2) + "\n"
        temporary: str | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # mkstemp makes it 0600 from the start
            descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".tokens-")
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    Path(temporary).unlink()
            raise ConfigurationError(f"can't write {self._path}: {error.strerror}") from error


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _parse(path: Path) -> tuple[Token, ...]:
    try:
        data: Any = json.loads(path.read_text())
        if data["version"] != _VERSION:
            raise ValueError("another version")
        return tuple(
            Token(
                str(entry["name"]),
                _digest(entry["sha256"]),
                known_scopes(entry["scopes"]),
                str(entry["created"]),
            )
            for entry in data["tokens"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"http.tokens: {path} is not a file of tokens") from error


def _digest(text: Any) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", str(text)):
        raise ValueError("not a SHA-256")
    return str(text)
