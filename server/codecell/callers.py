"""Who calls, and what they may do; pure.

A caller is the authenticated principal behind a call: a named token or an OAuth subject over HTTP,
the one peer on stdio. Names of OAuth subjects begin with `oauth:`, which no token's name may.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from codecell.errors import Denied

TOKEN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # noqa: S105  a pattern
CALLER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@|+=/-]{0,127}$"
OAUTH_PREFIX = "oauth:"


class Scope(StrEnum):
    """What a caller may be allowed to do."""

    EXECUTE = "execute"
    SESSIONS = "sessions"
    READ = "read"
    OPERATE = "operate"


MEANING = {
    Scope.EXECUTE: "run programs",
    Scope.SESSIONS: "keep cells between runs",
    Scope.READ: "list languages and read resources",
    Scope.OPERATE: "see metrics and the status page",
}
ALL_SCOPES = frozenset(Scope)
AGENT_SCOPES = frozenset({Scope.EXECUTE, Scope.SESSIONS, Scope.READ})


@dataclass(frozen=True, slots=True)
class Caller:
    """The principal of a call.

    Attributes:
        name: stable, and unique among all ways to authenticate.
        scopes: what it may do.
    """

    name: str
    scopes: frozenset[Scope] = ALL_SCOPES

    def lacks(self, scope: Scope) -> str | None:
        """Return a sentence for the caller when it may not do this, else None."""
        if scope in self.scopes:
            return None
        has = ", ".join(sorted(self.scopes)) or "none"
        return (
            f"Caller {self.name!r} lacks the scope {scope.value!r} ({MEANING[scope]}); "
            f"its scopes are: {has}. Ask the operator of this server for it."
        )

    def require(self, *scopes: Scope) -> None:
        """Let pass who has all of these scopes.

        Raises:
            Denied: with the sentence of `lacks`.
        """
        for scope in scopes:
            if denied := self.lacks(scope):
                raise Denied(denied)


LOCAL = Caller("local")


def known_scopes(words: Iterable[str]) -> frozenset[Scope]:
    """Return the scopes among these words; a word of somebody else's is passed over."""
    return frozenset(Scope(word) for word in words if word in ALL_SCOPES)


def oauth_name(issuer_subject: str) -> str:
    """Return the caller's name for a subject, whatever characters its issuer uses."""
    name = f"{OAUTH_PREFIX}{issuer_subject}"
    if re.fullmatch(CALLER_NAME.strip("^$"), name):
        return name
    return OAUTH_PREFIX + "sha256:" + hashlib.sha256(issuer_subject.encode()).hexdigest()[:40]
