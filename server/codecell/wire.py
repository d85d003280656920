"""The MCP wire contract: what callers send and what they get.

These models are the one source of the published schemas (tool_schemas/).
"""

from typing import Annotated, Literal

from pydantic import Field

from codecell.contract import Expect, WireInput, WireOutput
from codecell.model import (
    Change,
    SessionState,
    Status,
    Verdict,
    Why,
)
from codecell.wire_values import ValueOutput


class FileInput(WireInput):
    """A file written into /sandbox before the program begins; one of the contents is required."""

    path: Annotated[str, Expect("a string: a path relative to /sandbox")] = Field(
        description="Path relative to /sandbox, such as data/in.csv."
    )
    content: Annotated[str | None, Expect("a string")] = Field(
        None, description="Content as text (written as UTF-8)."
    )
    content_base64: Annotated[str | None, Expect("a string of base64")] = Field(
        None, description="Content as base64, for bytes."
    )
    uri: Annotated[str | None, Expect("a string: a codecell:// address")] = Field(
        None, description="Content by reference: the uri of a file that an earlier run returned."
    )


class TestInput(WireInput):
    """One input of a program."""

    stdin: Annotated[str, Expect("a string")] = Field("", description="Its standard input.")
    args: Annotated[list[str], Expect("an array of strings")] = Field(
        [], description="Its arguments, behind those of the call."
    )
    expected_stdout: Annotated[str | None, Expect("a string")] = Field(
        None,
        description="What it should print; white space at the end of lines and empty lines at the "
        "end make no difference.",
    )
    timeout: Annotated[float | None, Expect("a finite number of seconds greater than 0")] = Field(
        None, gt=0, description="Time limit of this test in seconds."
    )


class ExecuteCodeInput(WireInput):
    """Arguments of `execute_code`."""

    language: Annotated[str, Expect('a string that names a language, such as "python"')] = Field(
        description='Language id or alias from list_languages, such as "python" or "bash".'
    )
    code: Annotated[str, Expect("a string that holds the complete program")] = Field(
        "",
        description="The complete source of the program. Print what you want to see. "
        "Leave out only if one of `files` is the program.",
    )
    stdin: Annotated[str, Expect("a string")] = Field(
        "", description="Text the program reads from standard input."
    )
    args: Annotated[list[str], Expect("an array of strings")] = Field(
        [], description="Command-line arguments of the program."
    )
    env: Annotated[dict[str, str], Expect("an object whose values are strings")] = Field(
        {}, description="Environment variables to add, name to value."
    )
    files: Annotated[list[FileInput], Expect("an array of objects with path and content")] = Field(
        [], description="Files to write into /sandbox first: data, modules, headers, go.mod."
    )
    entrypoint: Annotated[str | None, Expect("a string: the path of the program's file")] = Field(
        None,
        description="Path of the file to run if it is one of `files`, or where to put `code`; "
        "leave out for the language's usual file.",
    )
    timeout: Annotated[
        float | None, Expect("a finite number of seconds greater than 0, such as 10")
    ] = Field(
        None, gt=0, description="Time limit in seconds; leave out for the language's default."
    )
    session_id: Annotated[str | None, Expect('"new", or 1 to 64 letters, digits, "_" and "-"')] = (
        Field(
            None,
            pattern=r"^[A-Za-z0-9_-]{1,64}$",
            description="Keep the sandbox under this name: a later call with the same name finds "
            "its files, and in Python, JavaScript and Bash its variables. Choose a name, or send "
            '"new" to be given one. Leave out for a clean sandbox.',
        )
    )
    max_output_tokens: Annotated[
        int | None, Expect("a whole number of at least 1, such as 2000")
    ] = Field(
        None,
        ge=1,
        description="Show about so many tokens of output at most (4 characters each): beginning "
        "and end are kept.",
    )
    idempotency_key: Annotated[str | None, Expect("a string of 1 to 128 characters")] = Field(
        None,
        description="Any string of your own: repeating the call with it never runs the program "
        "twice, but returns the first run's result.",
    )
    tests: Annotated[list[TestInput], Expect("an array of objects")] = Field(
        [],
        description="Run the program on each of these, compiled once, each in a clean process; "
        "`timeout` is then the time of all together. What became of each is in `tests`.",
    )
    stop_on_failure: Annotated[bool, Expect("a boolean")] = Field(
        default=False, description="Skip the tests behind the first that does not pass."
    )


class ListSessionsInput(WireInput):
    """Arguments of `list_sessions`: none."""


class CloseSessionInput(WireInput):
    """Arguments of `close_session`."""

    session_id: Annotated[str, Expect("the name of an open session")] = Field(
        description="Name of the session, as in list_sessions."
    )


class ListLanguagesInput(WireInput):
    """Arguments of `list_languages`: none."""


class UsageOutput(WireOutput):
    """What the run cost, from the kernel's counters."""

    wall_s: float = Field(description="Seconds the program ran.")
    cpu_s: float = Field(description="CPU seconds, children included.")
    peak_memory_bytes: int = Field(description="Most memory in use at a time.")


class LimitsOutput(WireOutput):
    """Limits of a run."""

    timeout_s: float = Field(description="Time limit in seconds.")
    memory_bytes: int = Field(description="Memory; no swap is added.")
    cpus: float = Field(description="CPUs.")
    processes: int = Field(description="Processes and threads at a time.")
    output_chars: int = Field(description="Characters kept of stdout, and of stderr.")
    sandbox_bytes: int = Field(description="Size of the working directory /sandbox.")
    tmp_bytes: int = Field(description="Size of /tmp.")


class IsolationOutput(WireOutput):
    """The confinement that really applied."""

    runtime: str = Field(description="OCI runtime, such as runc or runsc.")
    image: str = Field(description="Container image.")
    image_digest: str = Field(description="Digest of that image.")
    network: Literal["none"] = Field(description="Network access: none.")
    kernel: Literal["shared", "gvisor", "guest", "none"] = Field(
        description="Whose kernel served it: the host's (shared), gVisor's, a virtual machine's "
        "(guest); none if it got no sandbox."
    )
    seccomp: bool = Field(description="Whether the system call filter was in force.")
    apparmor: bool = Field(description="Whether an AppArmor profile was in force.")
    user_namespace: bool = Field(description="Whether its ids mean nothing on the host.")


class CompileOutput(WireOutput):
    """What the compiler did."""

    exit_code: int | None = Field(description="Its exit code, null if it was stopped.")
    signal: str | None = Field(description="Signal that ended it, or null.")
    output: str = Field(description="What it printed: errors, and warnings on success too.")
    output_bytes: int = Field(description="Bytes it printed in all, kept or not.")
    output_truncated: bool = Field(description="output holds less than was printed.")
    output_repaired: bool = Field(description="output was not valid UTF-8, as in stdout_repaired.")
    timeout_s: float = Field(description="Its own time limit in seconds.")
    usage: UsageOutput = Field(description="What it cost.")


class SessionOutput(WireOutput):
    """What became of the session by this call."""

    id: str = Field(description="Its name: send it as session_id to come back.")
    state: SessionState = Field(
        description="created; reused; lost_and_recreated: its sandbox was lost and an empty one "
        "took its place; closed: it is gone."
    )
    reason: str | None = Field(description="What else happened to it, or null.")
    kept: list[Literal["files", "variables"]] = Field(
        description="What the next call will find of this call's language. Each was checked."
    )
    age_s: float = Field(description="Seconds since it was opened.")
    expires_in_s: float = Field(description="Seconds until it is closed if no call comes.")
    runs: int = Field(description="Calls so far, with this one.")
    waited_s: float = Field(description="Seconds this call waited for earlier calls in it.")


class OpenSessionOutput(WireOutput):
    """One open session."""

    id: str = Field(description="What to send as session_id.")
    languages: list[str] = Field(description="Languages it has a sandbox of.")
    busy: bool = Field(description="Whether a call is in it now.")
    waiting: int = Field(description="Calls that wait for their turn in it.")
    age_s: float = Field(description="Seconds since it was opened.")
    idle_s: float = Field(description="Seconds since its last call ended; 0 while busy.")
    expires_in_s: float = Field(description="Seconds until it is closed if no call comes.")
    runs: int = Field(description="Calls so far.")
    memory_bytes: int = Field(description="What its sandboxes held when last looked at.")


class ListSessionsOutput(WireOutput):
    """The caller's open sessions, the oldest first."""

    sessions: list[OpenSessionOutput] = Field(description="One entry per open session.")
    most: int = Field(description="How many one caller may have open.")


class CloseSessionOutput(WireOutput):
    """The session that was closed, as it was just before."""

    closed: OpenSessionOutput = Field(description="It is gone, with its files and variables.")


class FileOutput(WireOutput):
    """A file that the run left."""

    path: str = Field(description="Relative to /sandbox.")
    size: int = Field(description="Bytes.")
    mode: str = Field(description="Permissions, such as 0644.")
    mime_type: str = Field(description="Type, by name and first bytes.")
    sha256: str = Field(description="Of the content.")
    uri: str = Field(description="Read it with resources/read, or send it back in `files`.")


class OmittedOutput(WireOutput):
    """Something changed that does not come back."""

    path: str | None = Field(description="Relative to /sandbox; null for several at once.")
    change: Change | None = Field(description="What happened to it, if known.")
    reason: Why = Field(description="Why it does not come back.")
    size: int | None = Field(description="Its size in bytes, if known.")
    target: str | None = Field(description="Where a symbolic link points.")
    count: int = Field(description="How many, where path is null; 0: unknown.")


class FilesOutput(WireOutput):
    """What the run did to the files under /sandbox."""

    created: list[FileOutput] = Field(description="New files.")
    modified: list[FileOutput] = Field(description="Files of the request that it changed.")
    deleted: list[str] = Field(description="Paths of files of the request that it removed.")
    omitted: list[OmittedOutput] = Field(description="Changes that do not come back, with reason.")


class TestOutput(WireOutput):
    """What became of one test."""

    verdict: Verdict = Field(
        description="passed. failed: its output is not the expected one. error: it did not "
        "succeed, see status. skipped: it never ran."
    )
    status: Status | None = Field(description="How it ended, as of a run; null if it never ran.")
    exit_code: int | None = Field(description="Exit code, null if it did not exit by itself.")
    signal: str | None = Field(description="Signal that ended it, or null.")
    stdout: str = Field(description="Standard output, as far as it is shown.")
    stderr: str = Field(description="Standard error, as far as it is shown.")
    stdout_bytes: int = Field(description="Bytes written to stdout in all.")
    stderr_bytes: int = Field(description="Bytes written to stderr in all.")
    stdout_truncated: bool = Field(description="stdout holds less than was written.")
    stderr_truncated: bool = Field(description="stderr holds less than was written.")
    message: str | None = Field(description="What went wrong, in one sentence, or null.")
    timeout_s: float = Field(description="Its time limit in seconds.")
    usage: UsageOutput = Field(description="What it cost.")


class ExecuteCodeOutput(WireOutput):
    """Result of one run. A program that fails is still a complete result."""

    run_id: str = Field(description="Id of this run.")
    status: Status = Field(
        description="success: exit code 0. execution_error: non-zero exit or signal. "
        "compile_error: it never ran, see compile. timeout, out_of_memory, "
        "output_limit: stopped at that limit. cancelled. "
        "setup_error: the server's fault, not the program's."
    )
    exit_code: int | None = Field(description="Exit code, null if it did not exit by itself.")
    signal: str | None = Field(description="Signal that ended it, such as SIGSEGV, or null.")
    stdout: str = Field(description="Standard output, as far as it was kept.")
    stderr: str = Field(description="Standard error, as far as it was kept.")
    stdout_bytes: int = Field(description="Bytes written to stdout in all, kept or not.")
    stderr_bytes: int = Field(description="Bytes written to stderr in all, kept or not.")
    stdout_truncated: bool = Field(description="stdout holds less than was written.")
    stderr_truncated: bool = Field(description="stderr holds less than was written.")
    stdout_repaired: bool = Field(
        description="stdout was not valid UTF-8; the bad bytes were replaced by U+FFFD."
    )
    stderr_repaired: bool = Field(
        description="stderr was not valid UTF-8; the bad bytes were replaced by U+FFFD."
    )
    stdout_elided_bytes: int = Field(description="Bytes left out between its beginning and end.")
    stderr_elided_bytes: int = Field(description="Bytes left out between its beginning and end.")
    stdout_sha256: str | None = Field(description="SHA-256 of all of it, null if not known.")
    stderr_sha256: str | None = Field(description="SHA-256 of all of it, null if not known.")
    stdout_resource: str | None = Field(
        description="Where to read it from its beginning (?offset=N&length=N), null if all is here."
    )
    stderr_resource: str | None = Field(
        description="Where to read it from its beginning (?offset=N&length=N), null if all is here."
    )
    stdout_resource_bytes: int = Field(
        description="How much of stdout can be read there, from its beginning; 0 if none."
    )
    stderr_resource_bytes: int = Field(description="The same of stderr.")
    result: ValueOutput | None = Field(
        description="Value of the program's last expression (Python, JavaScript), null if none."
    )
    displays: list[ValueOutput] = Field(
        description="What the program displayed, in order: figures and display(x)."
    )
    tests: list[TestOutput] = Field(description="What became of each test, in their order.")
    execution_time: float = Field(description="Seconds from call to result, waiting included.")
    error_message: str | None = Field(description="What went wrong, in one sentence, or null.")
    compile: CompileOutput | None = Field(
        description="The compile step, apart from the run; null for a language without one."
    )
    files: FilesOutput = Field(description="What the run did to files; contents are at their uri.")
    session: SessionOutput | None = Field(
        description="What became of the session; null for a call without session_id."
    )
    usage: UsageOutput = Field(description="What the run cost, from the kernel's counters.")
    limits: LimitsOutput = Field(description="Limits as applied to this run.")
    isolation: IsolationOutput = Field(description="Confinement that really applied.")


class LanguageOutput(WireOutput):
    """One language as really installed."""

    id: str = Field(description="What to send as `language`.")
    title: str = Field(description="Name for people.")
    aliases: list[str] = Field(description="Other names that are accepted.")
    version: str | None = Field(description="Installed version, null if not installed.")
    installed: bool = Field(description="Whether it can be run now.")
    file_name: str = Field(description="What the program is called in /sandbox.")
    command: list[str] = Field(description="How the program is run.")
    compile_command: list[str] = Field(description="How it is compiled first; empty if it isn't.")
    warm: bool = Field(description="Whether a sandbox is ready, so that a run starts at once.")
    warm_cells: int = Field(description="How many are ready.")
    preinstalled: list[str] = Field(description="What a program can use.")
    limits: LimitsOutput = Field(description="Limits of a run that asks for nothing else.")
    max_timeout_s: float = Field(description="Largest timeout that may be asked for, in seconds.")
    notes: str = Field(description="What else to know; often empty.")


class ListLanguagesOutput(WireOutput):
    """Every language the server knows."""

    languages: list[LanguageOutput] = Field(description="One entry per installed language.")
    not_installed: list[str] = Field(
        description="Ids of languages that could be run if the operator built their images."
    )
