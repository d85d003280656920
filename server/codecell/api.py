"""The Python API: run programs in sandboxes without MCP in between.

async with codecell.open_sandbox() as sandbox:
    outcome = await sandbox.execute("python", "print(6 * 7)")
    assert outcome.stdout.text == "42\\n"
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from anyio.from_thread import BlockingPortal, start_blocking_portal

from codecell.app import open_runner
from codecell.callers import LOCAL
from codecell.model import ChangedFile, Input, LanguageInfo, Outcome, Request, SessionInfo
from codecell.runner import Runner
from codecell.settings import Settings, load

Files = Mapping[str, str | bytes] | None


def _inputs(files: Files) -> tuple[Input, ...]:
    return tuple(
        Input(path=path, content=content.encode() if isinstance(content, str) else bytes(content))
        for path, content in (files or {}).items()
    )


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Runs programs, each in a cell of its own; any number at a time."""

    _runner: Runner

    async def execute(
        self,
        language: str,
        code: str = "",
        *,
        files: Files = None,
        entrypoint: str | None = None,
        stdin: str = "",
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        max_output_tokens: int | None = None,
        session_id: str | None = None,
    ) -> Outcome:
        """Run a program; however it ends, its outcome is returned.

        Args:
            language: id or alias.
            code: the program; may be left out where one of the files is the program.
            files: what is written into /sandbox first: relative paths and contents.
            entrypoint: the path of the program's file, if it is not the language's usual one.
            stdin: standard input.
            args: command-line arguments.
            env: variables to add.
            timeout_s: time limit; by default the configured one.
            max_output_tokens: how much of the output is shown, in tokens of four characters.
            session_id: keep the sandbox under this name; `new` for a name of the server's.

        Raises:
            RequestError: the request is not valid; nothing was run.
            BusyError: no place and no room to wait.
        """
        return await self._runner.execute(
            Request(
                language=language,
                code=code,
                files=_inputs(files),
                entrypoint=entrypoint,
                stdin=stdin,
                args=tuple(args),
                env=tuple((env or {}).items()),
                timeout_s=timeout_s,
                max_output_tokens=max_output_tokens,
                session_id=session_id,
            )
        )

    def read_file(self, file: ChangedFile, offset: int = 0, length: int | None = None) -> bytes:
        """Return the content of a file of an outcome (`outcome.files.changed`), or a part of it.

        Raises:
            ResourceNotFound: it was deleted by the run, or is kept no longer.
        """
        store = self._runner.store
        return store.read(store.find(file.uri or "", LOCAL.name), offset, length)

    def sessions(self) -> tuple[SessionInfo, ...]:
        """List the open sessions, the oldest first."""
        return self._runner.list_sessions(LOCAL.name)

    async def close_session(self, session_id: str) -> None:
        """Close a session; a program that runs in it is stopped.

        Raises:
            RequestError: there is none of that name.
        """
        await self._runner.close_session(LOCAL.name, session_id)

    async def languages(self) -> tuple[LanguageInfo, ...]:
        """Tell what can be run, as really installed.

        Raises:
            SandboxError: the engine does not answer.
        """
        return await self._runner.languages()


@dataclass(frozen=True, slots=True)
class BlockingSandbox:
    """A `Sandbox` for programs without an event loop; may be used from several threads."""

    _portal: BlockingPortal
    _sandbox: Sandbox

    def execute(
        self,
        language: str,
        code: str = "",
        *,
        files: Files = None,
        entrypoint: str | None = None,
        stdin: str = "",
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        max_output_tokens: int | None = None,
        session_id: str | None = None,
    ) -> Outcome:
        """Run a program and wait for its outcome; raises as `Sandbox.execute` does."""
        call = partial(
            self._sandbox.execute,
            language,
            code,
            files=files,
            entrypoint=entrypoint,
            stdin=stdin,
            args=args,
            env=env,
            timeout_s=timeout_s,
            max_output_tokens=max_output_tokens,
            session_id=session_id,
        )
        return self._portal.call(call)

    def read_file(self, file: ChangedFile, offset: int = 0, length: int | None = None) -> bytes:
        """Return the content of a file of an outcome; raises as `Sandbox.read_file` does."""
        return self._portal.call(self._sandbox.read_file, file, offset, length)

    def sessions(self) -> tuple[SessionInfo, ...]:
        """List the open sessions, the oldest first."""
        return self._portal.call(self._sandbox.sessions)

    def close_session(self, session_id: str) -> None:
        """Close a session; raises as `Sandbox.close_session` does."""
        self._portal.call(self._sandbox.close_session, session_id)

    def languages(self) -> tuple[LanguageInfo, ...]:
        """Tell what can be run; raises as `Sandbox.languages` does."""
        return self._portal.call(self._sandbox.languages)


@asynccontextmanager
async def open_sandbox(settings: Settings | None = None) -> AsyncIterator[Sandbox]:
    """Open a sandbox whose cells are made ahead of time; leaving removes them all.

    Args:
        settings: the configuration; by default that of the environment and ./codecell.toml.

    Raises:
        ConfigurationError: naming the key that is wrong.
    """
    async with open_runner(settings if settings is not None else load()) as runner:
        yield Sandbox(runner)


@contextmanager
def open_sandbox_blocking(settings: Settings | None = None) -> Iterator[BlockingSandbox]:
    """Open a sandbox for a program without an event loop."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(open_sandbox(settings)) as sandbox,
    ):
        yield BlockingSandbox(portal, sandbox)
