"""The tools about sessions: `list_sessions` and `close_session`. They decide nothing."""

from typing import Any, Protocol

import structlog
from mcp.types import CallToolResult, Tool, ToolAnnotations

from codecell.answers import answer, refusal
from codecell.callers import Caller, Scope
from codecell.contract import schema_of, validated
from codecell.errors import RequestError
from codecell.model import SessionInfo
from codecell.render import session_line
from codecell.settings import Settings
from codecell.translation import from_session
from codecell.wire import (
    CloseSessionInput,
    CloseSessionOutput,
    ListSessionsInput,
    ListSessionsOutput,
)

log = structlog.get_logger()


class Keeps(Protocol):
    """What these tools need of a `Runner`."""

    def list_sessions(self, caller: str) -> tuple[SessionInfo, ...]:
        """List a caller's sessions."""

    async def close_session(self, caller: str, session_id: str) -> SessionInfo:
        """Close one of them."""


def session_tools() -> list[Tool]:
    """Return the tools as published."""
    return [
        Tool(
            name="list_sessions",
            title="List sessions",
            description=(
                "List the sessions that you have open (sandboxes kept by execute_code's "
                "session_id): languages, age, idle time, when each expires, memory. Takes no "
                "arguments."
            ),
            input_schema=schema_of(ListSessionsInput, "validation"),
            output_schema=schema_of(ListSessionsOutput, "serialization"),
            annotations=ToolAnnotations(
                title="List sessions",
                read_only_hint=True,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=False,
            ),
        ),
        Tool(
            name="close_session",
            title="Close a session",
            description=(
                "Close one of your sessions: its sandboxes with their files, variables and "
                "processes are gone, and a call that is running in it is stopped. Close what you "
                "need no more; a session that is not used is closed after a while."
            ),
            input_schema=schema_of(CloseSessionInput, "validation"),
            output_schema=schema_of(CloseSessionOutput, "serialization"),
            annotations=ToolAnnotations(
                title="Close a session",
                read_only_hint=False,
                destructive_hint=True,
                idempotent_hint=False,
                open_world_hint=False,
            ),
        ),
    ]


def list_sessions(
    keeps: Keeps, settings: Settings, caller: Caller, arguments: dict[str, Any]
) -> CallToolResult:
    """Answer `list_sessions`.

    Raises:
        RequestError: nothing was done; the text is for the caller.
    """
    caller.require(Scope.SESSIONS)
    validated(ListSessionsInput, arguments)
    sessions = [from_session(info) for info in keeps.list_sessions(caller.name)]
    result = ListSessionsOutput(sessions=sessions, most=settings.sessions_of(caller.name))
    lines = [f"{len(sessions)} of {result.most} sessions are open", *map(session_line, sessions)]
    return answer(result, "\n".join(lines))


async def close_session(keeps: Keeps, caller: Caller, arguments: dict[str, Any]) -> CallToolResult:
    """Answer `close_session`.

    Raises:
        RequestError: nothing was done; the text is for the caller.
    """
    caller.require(Scope.SESSIONS)
    given = validated(CloseSessionInput, arguments)
    try:
        closed = from_session(await keeps.close_session(caller.name, given.session_id))
    except RequestError:
        raise
    except Exception:
        log.exception("close_session failed")
        return refusal("Internal error. Try again.")
    return answer(CloseSessionOutput(closed=closed), f"closed {session_line(closed)}")
