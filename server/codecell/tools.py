"""The MCP tools: wire model -> Request -> Runner -> wire model. They decide nothing.

Built on the SDK's low-level server, which publishes exactly our schemas and leaves the checking
of arguments to us; the high-level one drops unknown arguments silently.
"""

import math
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Protocol

import anyio
import structlog
from mcp import MCPError
from mcp.server import CacheHint, Server, ServerRequestContext
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
    ToolAnnotations,
)

from codecell import __version__, session_tools
from codecell.answers import answer, refusal
from codecell.callers import LOCAL, Caller, Scope
from codecell.contract import schema_of, validated
from codecell.errors import BusyError, Leaving, RateLimited, RequestError, SandboxError, SessionBusy
from codecell.model import LanguageInfo, Outcome, Request, SessionInfo, Status
from codecell.observer import Observers, Watch
from codecell.posture import posture
from codecell.progress import Progress, reporting
from codecell.recent import Recent
from codecell.render import fit, languages_text, result_text
from codecell.resources import BLOCKS_BYTES, Resources, block_bytes
from codecell.settings import DEFAULT, Settings
from codecell.store import SCHEME, Store
from codecell.translation import from_languages, from_outcome, to_request
from codecell.visible import size
from codecell.wire import (
    ExecuteCodeInput,
    ExecuteCodeOutput,
    ListLanguagesInput,
    ListLanguagesOutput,
)
from codecell.wire_values import pictures

log = structlog.get_logger()

Context = ServerRequestContext[Any]
# Results are fitted to the transport; without this hint some clients put anything above 25,000
# tokens into a file (500,000 is the most that they accept).
_RESULT_META = {"anthropic/maxResultSizeChars": 500_000}


class Runs(Protocol):
    """What the tools need of a `Runner`."""

    store: Store
    recent: Recent
    observers: Observers

    async def execute(self, request: Request, *, watch: Watch | None = None) -> Outcome:
        """Run one request."""

    async def languages(self, caller: str = "local") -> tuple[LanguageInfo, ...]:
        """Tell what is installed and allowed."""

    def list_sessions(self, caller: str) -> tuple[SessionInfo, ...]:
        """List a caller's sessions."""

    async def close_session(self, caller: str, session_id: str) -> SessionInfo:
        """Close one of them."""


def _local(_: Context) -> Caller:
    return LOCAL


def build_server(
    runner: Runs, settings: Settings, caller_of: Callable[[Context], Caller] = _local
) -> Server[Any]:
    """Make the MCP server; it serves any number of connections of either protocol era.

    Args:
        runner: runs the programs.
        settings: what the descriptions state as defaults and ceilings.
        caller_of: names the authenticated caller of a call; stdio has one.
    """
    tools = tool_definitions(settings)

    def facts(uri: str, caller: str) -> dict[str, object] | None:
        if uri == f"{SCHEME}posture":
            return posture(caller, settings)
        run = runner.recent.find(uri.removeprefix(f"{SCHEME}runs/"), caller)
        return run.as_json() if run is not None else None

    resources = Resources(runner.store, caller_of, facts, runner.observers)
    handlers = _Handlers(runner, settings, resources)

    async def list_tools(_: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=tools)

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        arguments = params.arguments if params.arguments is not None else {}
        caller = caller_of(context)
        try:
            match params.name:
                case "execute_code":
                    return await handlers.execute_code(context, caller, arguments)
                case "list_languages":
                    return await handlers.list_languages(caller, arguments)
                case "list_sessions":
                    return session_tools.list_sessions(runner, settings, caller, arguments)
                case "close_session":
                    return await session_tools.close_session(runner, caller, arguments)
                case name:
                    known = ", ".join(tool.name for tool in tools)
                    problem = f"Unknown tool {name[:64]!r}; the tools are {known}"
                    runner.observers.refused(caller.name, None, RequestError(problem))
                    raise MCPError(INVALID_PARAMS, problem)
        except RequestError as error:  # there is no run that would tell of it
            runner.observers.refused(caller.name, None, error)
            return refusal(str(error))

    return Server(
        "codecell",
        version=__version__,
        title="codecell",
        description="Runs untrusted code in hardened containers made ahead of time.",
        instructions=_instructions(),
        cache_hints={"tools/list": CacheHint(ttl_ms=300_000, scope="public")},
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=resources.listing,
        on_list_resource_templates=resources.templates,
        on_read_resource=resources.read,
    )


def _instructions() -> str:
    return (
        "codecell runs programs in throw-away sandboxes. Call execute_code with a complete "
        "program; call list_languages once to see versions, limits and what is preinstalled. "
        "A call starts clean unless it names a session (session_id); none has network."
    )


def tool_definitions(settings: Settings) -> list[Tool]:
    """Return the tools as published, in a fixed order (clients cache by it)."""
    return [
        Tool(
            name="execute_code",
            title="Run code in a sandbox",
            description=_execute_description(settings),
            input_schema=schema_of(ExecuteCodeInput, "validation"),
            output_schema=schema_of(ExecuteCodeOutput, "serialization"),
            annotations=ToolAnnotations(
                title="Run code in a sandbox",
                read_only_hint=False,
                destructive_hint=False,
                idempotent_hint=False,
                open_world_hint=False,
            ),
            _meta=_RESULT_META,
        ),
        Tool(
            name="list_languages",
            title="List languages",
            description=(
                "List the languages that execute_code can run: ids, aliases, installed versions, "
                "preinstalled packages, default limits and ceilings. Call it when unsure which "
                "language or version there is. Takes no arguments."
            ),
            input_schema=schema_of(ListLanguagesInput, "validation"),
            output_schema=schema_of(ListLanguagesOutput, "serialization"),
            annotations=ToolAnnotations(
                title="List languages",
                read_only_hint=True,
                destructive_hint=False,
                idempotent_hint=True,
                open_world_hint=False,
            ),
        ),
        *session_tools.session_tools(),
    ]


def _execute_description(settings: Settings) -> str:
    rules = settings.rules[DEFAULT]
    limits = rules.limits
    allowed = ", ".join(name for name in settings.table if rules.allows(name))
    return (
        f"Run a complete program ({allowed}) in an isolated sandbox and return "
        "its stdout, stderr, exit code and resource usage; use it to compute, test code or process "
        "text.\n"
        "- A call starts clean, with nothing of earlier calls, unless it has a `session_id`: then "
        "files stay, and in Python, JavaScript and Bash variables, for the next call with that id; "
        "`session` in the result says what was kept.\n"
        "- No network. The working directory is /sandbox; /sandbox and /tmp are writable, the rest "
        "is read-only. Send input as `stdin`, `args`, `env` or `files` (data, or modules of a "
        "program of several files); print what you want back, or leave files in /sandbox: images "
        "and short texts are shown, all are readable at their `uri`.\n"
        f"- Time limit {limits.timeout_s:g} s unless `timeout` says otherwise, at most "
        f"{limits.max_timeout_s:g} s; {size(limits.memory)} memory, {limits.cpus:g} CPU, "
        f"{limits.processes} processes; {limits.output_chars} characters are kept of stdout and of "
        "stderr. Output up to the moment a limit stops the program is returned.\n"
        "- A program that fails is a normal result: read `status`, `exit_code` and `stderr`. "
        "Only status `setup_error` is the server's fault."
    )


class _Handlers:
    """The two tool handlers; every failure becomes a result that a model can act on."""

    def __init__(self, runner: Runs, settings: Settings, resources: Resources) -> None:
        self._runner = runner
        self._resources = resources
        self._files = settings.files

    async def execute_code(
        self, context: Context, caller: Caller, arguments: dict[str, Any]
    ) -> CallToolResult:
        caller.require(Scope.EXECUTE)
        given = validated(ExecuteCodeInput, arguments)
        if given.session_id is not None:
            caller.require(Scope.SESSIONS)
        request = to_request(given, caller.name)
        if not context.meta or "progress_token" not in context.meta:
            return await self._run(request, None)
        watch = Progress()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporting, watch, context.session.report_progress)
            result = await self._run(request, watch)
            tasks.cancel_scope.cancel()
        return result

    async def _run(self, request: Request, watch: Watch | None) -> CallToolResult:
        try:
            outcome = await self._runner.execute(request, watch=watch)
            shown: list[ContentBlock] = [
                ImageContent(type="image", data=b64encode(form.data).decode(), mime_type=form.mime)
                for form in pictures(outcome)
            ]
            beside = sum(map(block_bytes, shown))
            if changed := outcome.files.changed:
                room = BLOCKS_BYTES - beside
                more, taken = self._resources.blocks(request.caller, changed, self._files, room)
                shown += more
                beside += taken
            result = fit(from_outcome(outcome), beside)
        except RequestError as error:
            return refusal(str(error))
        except RateLimited as error:
            wait = max(1, math.ceil(error.retry_after_s))
            return refusal(f"{error}; nothing was run. Retry after {wait} s.")
        except Leaving:
            return refusal("The server is shutting down; the run was stopped. Try again later.")
        except SessionBusy as error:
            return refusal(f"Busy: {error}; nothing was run. Retry later, or use another session.")
        except BusyError as error:
            wait = max(1, math.ceil(error.retry_after_s))
            return refusal(f"The server is busy; nothing was run. Busy, retry after {wait} s.")
        except Exception:
            log.exception("execute_code failed")
            return refusal("Internal error; the program may not have run. Try again.")
        return answer(
            result, result_text(result), shown, failed=result.status is Status.SETUP_ERROR
        )

    async def list_languages(self, caller: Caller, arguments: dict[str, Any]) -> CallToolResult:
        caller.require(Scope.READ)
        validated(ListLanguagesInput, arguments)
        try:
            result = from_languages(await self._runner.languages(caller.name))
        except SandboxError as error:
            log.exception("list_languages failed")
            return refusal(f"setup_error: {error}")
        except Exception:
            log.exception("list_languages failed")
            return refusal("Internal error. Try again.")
        return answer(result, languages_text(result))
