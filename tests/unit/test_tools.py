"""The tools through a real MCP client in memory, both protocol eras, over a scripted runner."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import structlog
from mcp import Client, MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, TextContent
from structlog.testing import CapturingLogger

from codecell import __version__, policy, progress, tools
from codecell.callers import Caller
from codecell.errors import BusyError, CodecellError, EngineUnavailable, RequestError
from codecell.model import (
    Captured,
    Isolation,
    LanguageInfo,
    Outcome,
    Request,
    SessionInfo,
    Status,
    Usage,
)
from codecell.observer import Observer, Observers, Watch
from codecell.recent import Recent
from codecell.settings import Settings
from codecell.store import Store

pytestmark = pytest.mark.anyio
SETTINGS = Settings.model_construct()
MINIMAL = {"language": "python", "code": "print(1)"}

Behaviour = Callable[[Request], Awaitable[Outcome]]
Connect = Callable[["ScriptedRunner"], AbstractAsyncContextManager[Client]]


def outcome(request: Request, status: Status = Status.SUCCESS, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        "run_id": "r1",
        "status": status,
        "exit_code": 0,
        "signal": None,
        "stdout": Captured(text="1\n", total_bytes=2),
        "stderr": Captured(),
        "usage": Usage(),
        "execution_time_s": 0.1,
        "error_message": None,
        "plan": policy.plan(request, SETTINGS),
        "isolation": Isolation(runtime="runc", image="i", image_digest="sha256:0"),
    }
    return Outcome(**{**values, **changes})


async def succeed(request: Request) -> Outcome:
    return outcome(request)


SESSION = SessionInfo(
    id="s", languages=("python",), busy=False, waiting=0, age_s=9.5, idle_s=2.0,
    expires_in_s=100.0, runs=3, memory_bytes=1 << 20,
)  # fmt: skip


class ScriptedRunner:
    """A runner that does what a test says and remembers what it was asked."""

    def __init__(self, behaviour: Behaviour = succeed, *, away: Exception | None = None) -> None:
        self.behaviour = behaviour
        self.away = away
        self.asked: list[Request] = []
        self.watches: list[Watch | None] = []
        self.store = Store(SETTINGS.store)
        self.recent = Recent()
        self.observers = Observers()

    async def execute(self, request: Request, *, watch: Watch | None = None) -> Outcome:
        self.asked.append(request)
        self.watches.append(watch)
        return await self.behaviour(request)

    def list_sessions(self, caller: str) -> tuple[SessionInfo, ...]:
        return (SESSION,) if caller == "local" else ()

    async def close_session(self, caller: str, session_id: str) -> SessionInfo:
        if session_id != SESSION.id:
            raise RequestError(f"There is no session {session_id!r}. Your sessions: s (idle).")
        return SESSION

    async def languages(self, caller: str = "local") -> tuple[LanguageInfo, ...]:
        if self.away is not None:
            raise self.away
        plan = policy.plan(Request(language="python", code="1"), SETTINGS)
        return (
            LanguageInfo(
                id="python", title="Python", aliases=("py",), extensions=(".py",),
                file_name="main.py", command=("python3", "main.py"), installed=True,
                version="3.13.5", warm_cells=1, preinstalled=("standard library",),
                limits=plan.limits, max_timeout_s=300, cell_limits=plan.cell.limits,
            ),
        )  # fmt: skip


def raising(error: Exception) -> Behaviour:
    async def behaviour(request: Request) -> Outcome:
        raise error

    return behaviour


@pytest.fixture(params=["auto", "legacy"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Connect in the 2026-07-28 era or the handshake era."""

    @asynccontextmanager
    async def opened(runner: ScriptedRunner) -> AsyncIterator[Client]:
        with anyio.fail_after(10):
            async with Client(tools.build_server(runner, SETTINGS), mode=request.param) as client:
                yield client

    return opened


def text_of(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


async def test_a_call_becomes_a_request_and_its_outcome_a_result(connect: Connect) -> None:
    runner = ScriptedRunner()
    async with connect(runner) as client:
        result = await client.call_tool(
            "execute_code",
            {**MINIMAL, "stdin": "in", "args": ["a"], "env": {"A": "1"}, "timeout": 5},
        )
    assert runner.asked == [
        Request(
            language="python", code="print(1)", stdin="in", args=("a",), env=(("A", "1"),),
            timeout_s=5.0,
        )
    ]  # fmt: skip
    assert not result.is_error
    assert result.structured_content["stdout"] == "1\n"
    assert result.structured_content["signal"] is None  # null is sent, as the schema promises
    assert text_of(result).startswith("1\n--- result of run r1 ---\nstatus: success")


async def test_a_program_that_fails_is_a_successful_call(connect: Connect) -> None:
    async def fail(request: Request) -> Outcome:
        return outcome(request, Status.EXECUTION_ERROR, exit_code=3, error_message="It exited.")

    async with connect(ScriptedRunner(fail)) as client:
        result = await client.call_tool("execute_code", MINIMAL)
    assert not result.is_error
    assert result.structured_content["exit_code"] == 3


async def test_our_failure_is_an_error_with_the_whole_result(connect: Connect) -> None:
    async def fail(request: Request) -> Outcome:
        return outcome(request, Status.SETUP_ERROR, exit_code=None, error_message="No engine.")

    async with connect(ScriptedRunner(fail)) as client:
        result = await client.call_tool("execute_code", MINIMAL)
    assert result.is_error
    assert result.structured_content["status"] == "setup_error"
    assert "error: No engine.\n" in text_of(result)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (None, "language is required"),
        ({**MINIMAL, "privileged": True}, 'Unknown field "privileged"; valid fields are language,'),
        ({**MINIMAL, "timeout": -1}, "timeout must be a finite number of seconds greater than 0"),
        ({**MINIMAL, "code": 7}, "code must be a string"),
    ],
)
async def test_a_bad_shape_runs_nothing(
    connect: Connect, arguments: dict[str, Any] | None, words: str
) -> None:
    runner = ScriptedRunner()
    async with connect(runner) as client:
        result = await client.call_tool("execute_code", arguments)
    assert result.is_error
    assert words in text_of(result)
    assert not runner.asked


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RequestError("language 'x' is not supported"), "language 'x' is not supported"),
        (BusyError("full", retry_after_s=2.2), "retry after 3 s"),
        (BusyError("full", retry_after_s=0), "retry after 1 s"),
    ],
)
async def test_refusals_are_tool_errors(connect: Connect, error: Exception, text: str) -> None:
    async with connect(ScriptedRunner(raising(error))) as client:
        result = await client.call_tool("execute_code", MINIMAL)
    assert result.is_error
    assert result.structured_content is None
    assert text in text_of(result)


async def test_the_unexpected_is_logged_and_not_told(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = CapturingLogger()  # whatever an earlier test has configured
    processors = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    monkeypatch.setattr(tools, "log", structlog.wrap_logger(logged, processors))
    async with connect(ScriptedRunner(raising(RuntimeError("/secret/path")))) as client:
        result = await client.call_tool("execute_code", MINIMAL)
        again = await client.call_tool("list_languages")
    assert result.is_error
    assert text_of(result) == "Internal error; the program may not have run. Try again."
    assert "/secret/path" in str(logged.calls)
    assert not again.is_error


class Refusals(Observer):
    def __init__(self) -> None:
        self.told: list[str] = []

    def refused(self, caller: str, request: Request | None, error: CodecellError) -> None:
        self.told.append(f"{caller} {request} {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("execute_code", {"code": 1}, "RequestError: language is required"),
        ("list_languages", {"x": 1}, 'RequestError: Unknown field "x"'),
        ("list_sessions", {"x": 1}, 'RequestError: Unknown field "x"'),
        ("close_session", {}, "RequestError: session_id is required"),
        ("close_session", {"session_id": "other"}, "RequestError: There is no session"),
    ],
)
async def test_observers_hear_of_what_never_became_a_run(
    connect: Connect, tool: str, arguments: dict[str, Any], told: str
) -> None:
    runner, refusals = ScriptedRunner(), Refusals()
    runner.observers.join(refusals)
    async with connect(runner) as client:
        assert (await client.call_tool(tool, arguments)).is_error
    (line,) = refusals.told
    assert line.startswith(f"local None {told}")
    assert not runner.asked


async def test_observers_hear_of_scopes_that_lack() -> None:
    runner, refusals = ScriptedRunner(), Refusals()
    runner.observers.join(refusals)
    server = tools.build_server(runner, SETTINGS, lambda _: Caller("ann", frozenset()))
    async with Client(server) as client:
        for tool in ("execute_code", "list_languages", "list_sessions", "close_session"):
            assert "lacks the scope" in text_of(await client.call_tool(tool, {}))
        with pytest.raises(MCPError, match="lacks the scope 'read'"):
            await client.read_resource("codecell://posture")
        with pytest.raises(MCPError, match="lacks the scope 'read'"):
            await client.list_resources()
    assert len(refusals.told) == 6
    assert all(line.startswith("ann None Denied: Caller 'ann' lacks") for line in refusals.told)


async def test_an_unknown_tool_is_a_protocol_error(connect: Connect) -> None:
    runner, refusals = ScriptedRunner(), Refusals()
    runner.observers.join(refusals)
    async with connect(runner) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("run_code", {})
    assert caught.value.error.code == INVALID_PARAMS
    assert "execute_code, list_languages" in caught.value.error.message
    assert refusals.told == [f"local None RequestError: {caught.value.error.message}"]


async def test_languages(connect: Connect) -> None:
    async with connect(ScriptedRunner()) as client:
        result = await client.call_tool("list_languages")
        refused = await client.call_tool("list_languages", {"all": True})
    assert not result.is_error
    assert result.structured_content["languages"][0]["version"] == "3.13.5"
    assert "3.13.5" in text_of(result)
    assert refused.is_error
    assert text_of(refused) == 'Unknown field "all"; no arguments are accepted.'


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EngineUnavailable("No engine answers."), "setup_error: No engine answers."),
        (RuntimeError("/secret/path"), "Internal error. Try again."),
    ],
)
async def test_languages_without_an_engine(connect: Connect, error: Exception, text: str) -> None:
    async with connect(ScriptedRunner(away=error)) as client:
        result = await client.call_tool("list_languages")
    assert result.is_error
    assert text_of(result) == text


async def test_progress_is_sent_to_a_caller_that_asked_and_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the handshake era: in memory the modern one has callbacks in the place of tokens."""
    monkeypatch.setattr(tools, "reporting", partial(progress.reporting, every_s=0.01))
    enough = anyio.Event()
    seen: list[tuple[float, float | None, str | None]] = []

    async def until_enough(request: Request) -> Outcome:
        await enough.wait()
        return outcome(request)

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        if len(seen) == 3:
            enough.set()

    runner = ScriptedRunner(until_enough)
    async with Client(tools.build_server(runner, SETTINGS), mode="legacy") as client:
        await client.call_tool("execute_code", {**MINIMAL, "timeout": 7}, progress_callback=note)
        await client.call_tool("execute_code", {**MINIMAL, "timeout": 7})
    values = [progress for progress, _, _ in seen]
    assert values == sorted(set(values))
    assert seen[0][1:] == (None, "queued")
    assert [watch is not None for watch in runner.watches] == [True, False]


async def test_a_call_that_is_given_up_cancels_its_run(connect: Connect) -> None:
    begun, cancelled = anyio.Event(), anyio.Event()

    async def forever(request: Request) -> Outcome:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return outcome(request)

    async with connect(ScriptedRunner(forever)) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "execute_code", MINIMAL)
            await begun.wait()
            tasks.cancel_scope.cancel()
        await cancelled.wait()
        assert not (await client.call_tool("list_languages")).is_error


async def test_calls_run_side_by_side(connect: Connect) -> None:
    both = anyio.Event()
    runner = ScriptedRunner()

    async def meet(request: Request) -> Outcome:
        if len(runner.asked) == 2:
            both.set()
        await both.wait()
        return outcome(request)

    runner.behaviour = meet
    async with connect(runner) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.call_tool, "execute_code", MINIMAL)
        tasks.start_soon(client.call_tool, "execute_code", MINIMAL)


async def test_the_largest_output_arrives(connect: Connect) -> None:
    async def flood(request: Request) -> Outcome:
        return outcome(request, stdout=Captured(text="\x1b" * 400_000, total_bytes=400_000))

    async with connect(ScriptedRunner(flood)) as client:
        result = await client.call_tool("execute_code", MINIMAL)
    assert result.structured_content["stdout_truncated"]
    assert len(result.model_dump_json().encode()) < 900_000


async def test_the_tools_as_published(connect: Connect) -> None:
    async with connect(ScriptedRunner()) as client:
        listed = (await client.list_tools()).tools
    assert [tool.name for tool in listed] == [
        "execute_code", "list_languages", "list_sessions", "close_session",
    ]  # fmt: skip
    execute, languages, _, close = listed
    for tool in listed:
        assert tool.title
        assert len(tool.description or "") < 2_000
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert (tool.annotations.open_world_hint, tool.annotations.destructive_hint) == (
            False,
            tool is close,
        )
    assert execute.annotations is not None
    assert execute.annotations.read_only_hint is False
    assert languages.annotations is not None
    assert (languages.annotations.read_only_hint, languages.annotations.idempotent_hint) == (
        True,
        True,
    )
    assert "300 s" in (execute.description or "")
    assert "No network" in (execute.description or "")


async def test_the_server_says_who_it_is(connect: Connect) -> None:
    async with connect(ScriptedRunner()) as client:
        assert client.server_info is not None
        assert client.server_info.name == "codecell"
        assert client.server_info.version == __version__
        assert "execute_code" in (client.instructions or "")


async def test_sessions_are_listed_and_closed(connect: Connect) -> None:
    async with connect(ScriptedRunner()) as client:
        listed = await client.call_tool("list_sessions")
        assert listed.structured_content is not None
        assert listed.structured_content["sessions"][0]["id"] == "s"
        assert "idle for 2 s, 3 calls" in text_of(listed)
        closed = await client.call_tool("close_session", {"session_id": "s"})
        assert closed.structured_content is not None
        assert closed.structured_content["closed"]["runs"] == 3
        assert text_of(closed).startswith("closed s: python")


@pytest.mark.parametrize(
    ("tool", "arguments", "text"),
    [
        ("list_sessions", {"all": True}, "no arguments are accepted"),
        ("close_session", {}, "session_id is required and must be the name of an open session"),
        ("close_session", {"session_id": 3}, "session_id must be the name of an open session"),
        ("close_session", {"session_id": "t"}, "There is no session 't'"),
    ],
)
async def test_a_bad_call_about_sessions_is_explained(
    connect: Connect, tool: str, arguments: dict[str, Any], text: str
) -> None:
    async with connect(ScriptedRunner()) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert text in text_of(result)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "ünïcode", "new\n", 7])
async def test_an_invalid_session_id_is_never_no_session(connect: Connect, name: Any) -> None:
    runner = ScriptedRunner()
    async with connect(runner) as client:
        result = await client.call_tool("execute_code", {**MINIMAL, "session_id": name})
    assert result.is_error
    assert 'session_id must be "new", or 1 to 64 letters, digits' in text_of(result)
    assert not runner.asked
