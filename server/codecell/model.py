"""The values that flow through codecell: frozen, engine-free, without behaviour.

One long module on purpose: it is the vocabulary, from request to outcome, and holds nothing else.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


class Status(StrEnum):
    """How a run ended. Closed: clients switch on it."""

    SUCCESS = "success"
    EXECUTION_ERROR = "execution_error"
    COMPILE_ERROR = "compile_error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    CANCELLED = "cancelled"
    SETUP_ERROR = "setup_error"


class Launch(StrEnum):
    """How a language's main process comes to be.

    FORK: the agent's own, already initialised Python interpreter, forked before the request.
    STANDBY: an interpreter process started before the request that waits for its program.
    EXEC: a process forked before the request that executes the command.
    """

    FORK = "fork"
    STANDBY = "standby"
    EXEC = "exec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """An interpreter that is started before its program is known.

    Attributes:
        command: what is executed.
        source: the script in incell/ that makes it wait.
        file: where that script lies in the cell while the interpreter starts.
        env: further environment of the start.
        job: how it is told its program: `binary` (frames.encode_job), `shell` (words to source) or
            `none`: it was started as a fresh one is, and reads the file of the usual name. Args,
            environment, another name and sessions are a fresh start's.
        values: the script in incell/, behind `source`, by which it shows a program's value.
    """

    command: tuple[str, ...]
    source: str
    file: str
    env: tuple[tuple[str, str], ...] = ()
    job: Literal["binary", "shell", "none"] = "binary"
    values: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """How a language's interpreter lives through a session.

    Attributes:
        source: the script in incell/ that it becomes, or empty where it needs none.
        step: what it is told to begin a step; {n} is the step's number.
        job: how it reads its job: `binary` (frames.encode_job) or `shell`.
    """

    source: str = ""
    step: str = "{n}\n"
    job: Literal["binary", "shell"] = "binary"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLimits:
    """What the container itself enforces."""

    memory_bytes: int
    cpus: float
    pids: int
    sandbox_bytes: int  # size of the /sandbox tmpfs
    tmp_bytes: int  # size of the /tmp tmpfs
    open_files: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What the agent and the server enforce on one run."""

    timeout_s: float
    output_chars: int  # shown per stream
    output_kill_bytes: int  # both streams together; past it the run is ended
    total_chars: int = 2**31  # shown of all streams together
    stream_bytes: int = 0  # kept of one stream, shown or not
    values_bytes: int = 0  # of what a program shows beside its output; 0 takes none


@dataclass(frozen=True, slots=True, kw_only=True)
class Seccomp:
    """A system call filter: one of ours by name, or an operator's with its text."""

    name: str
    profile: str | None = field(default=None, repr=False)  # JSON, where it is not one of ours


BUILT_IN_SECCOMP = ("default", "no-sockets")
OUR_SECCOMP = Seccomp(name="default")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellSpec:
    """Everything that makes one cell interchangeable with another: the pool's key."""

    language: str
    image: str
    launch: Launch
    limits: CellLimits
    standby: Standby | None = None
    kernel: Kernel | None = None
    python: str = "/usr/bin/python3"  # what the agent runs on
    runtime: str | None = None  # OCI runtime; None is the engine's default
    reuse: Literal["never", "caller"] = "never"
    seccomp: Seccomp = OUR_SECCOMP


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file written into /sandbox before the first step."""

    path: str
    content: bytes
    mode: int = 0o644


class Keep(StrEnum):
    """What of a step is there for the next one in the same cell."""

    NOTHING = ""
    FILES = "files"
    INTERPRETER = "interpreter"  # and files


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file that a request brings.

    Attributes:
        path: relative to /sandbox.
        uri: a stored result of the caller's that is the content; the runner puts it in.
    """

    path: str
    content: bytes = b""
    uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One process tree to start and wait for."""

    kind: Literal["compile", "run"]
    launch: Launch
    argv: tuple[str, ...]
    timeout_s: float
    env: tuple[tuple[str, str], ...] = ()
    keep: Keep = Keep.NOTHING
    code: bytes = b""  # what an interpreter that lives is told to run
    oom_mark: str = ""  # see Language


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input of a program, and what it should print for it."""

    stdin: bytes = b""
    args: tuple[str, ...] = ()
    expected: str | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a caller asked for, after validation of its shape."""

    language: str
    code: str = ""  # may be empty where `entrypoint` names one of the files
    stdin: str = ""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[Input, ...] = ()
    entrypoint: str | None = None
    timeout_s: float | None = None
    tests: tuple[Case, ...] = ()
    stop_on_failure: bool = False  # skip the tests behind the first that does not pass
    max_output_tokens: int | None = None  # shown of the output, at four characters each
    caller: str = "local"
    session_id: str | None = None
    idempotency_key: str | None = None


class Verdict(StrEnum):
    """What became of a test case."""

    PASSED = "passed"  # it succeeded, with the expected output where one was given
    FAILED = "failed"  # it succeeded with another output
    ERROR = "error"  # it did not succeed; its status says how
    SKIPPED = "skipped"  # it never ran


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be done; made by `policy.plan` from a request, a language and the settings."""

    language: str
    caller: str
    cell: CellSpec
    limits: RunLimits
    steps: tuple[Step, ...]
    files: tuple[File, ...]
    main: str  # absolute path of the program in the cell
    stdin: bytes
    session_id: str | None = None  # a name, or `new`
    cases: tuple[Case, ...] = ()
    stop_on_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run cost, from the kernel's own counters."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


class Ending(StrEnum):
    """Why the agent (or the server, when the agent is gone) ended a step."""

    EXITED = "exited"
    TIMEOUT = "timeout"
    OUTPUT_LIMIT = "output_limit"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out_of_memory"  # the whole cell died of it; the agent could not report


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the agent found when a session's step was over.

    Attributes:
        boot_id: the agent's: another one is another cell.
        generation: how many interpreters the cell has had; 0 before the first.
        alive: whether the last of them answered and waits for its next step.
        files: whether the working directory is the one that the cell came up with.
        died: how the interpreter before ended between two steps, or empty.
        memory_bytes: what the cell holds now.
    """

    boot_id: str
    generation: int
    alive: bool
    files: bool
    died: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What happened to one step, as facts: `runner` alone turns them into a `Status`."""

    ending: Ending
    exit_code: int | None = None
    signal: int | None = None
    oom_kills: int | None = 0  # None where the cell's own kernel does not tell
    heap_full: bool = False  # says the program's runtime, which has a limit of its own
    usage: Usage = field(default_factory=Usage)
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    files_changed: int = 0
    kept: Kept | None = None  # of a step in a session
    failure: str = ""  # why such a step never began
    stdout_sha256: str = ""  # where the server did not get all of it
    stderr_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """The posture that really applied to a run; where it got no cell, nothing is claimed.

    Attributes:
        runtime: the OCI runtime, as the engine knows it.
        image: the image's name.
        image_digest: what that name stood for; empty where there was no cell.
        network: always none.
        kernel: whose system calls the program made: the host's own, gVisor's, or those of a virtual
            machine of the cell's own.
        seccomp: our system call filter was in force.
        apparmor: the engine's AppArmor profile was in force.
        user_namespace: root in the cell is nobody on the host.
    """

    runtime: str
    image: str
    image_digest: str
    network: Literal["none"] = "none"
    kernel: Literal["shared", "gvisor", "guest", "none"] = "none"
    seccomp: bool = False
    apparmor: bool = False
    user_namespace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One output stream as the server has it.

    Attributes:
        head: its first bytes; all of it where there is no `gap`.
        tail: its last bytes.
        total: bytes written in all.
        sha256: hex digest of all that was written; None where that can't be known.
    """

    head: bytes = b""
    tail: bytes = b""
    total: int = 0
    sha256: str | None = None

    @property
    def gap(self) -> int:
        """Count the bytes between `head` and `tail`."""
        return self.total - len(self.head) - len(self.tail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """One output stream as shown.

    Attributes:
        text: the whole, or beginning, a line on what is left out, and end.
        elided_bytes: how much that is.
        uri: where the stream can be read from its beginning, where it is not shown whole.
        stored_bytes: how much of it lies there: all, up to `limits.stream`.
    """

    text: str = ""
    total_bytes: int = 0
    truncated: bool = False
    repaired: bool = False  # bytes that were not UTF-8 were replaced
    elided_bytes: int = 0
    sha256: str | None = None
    uri: str | None = None
    stored_bytes: int = 0
    stream: Stream | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One form of a value: a picture, or text of a type.

    Attributes:
        width, height: of a picture, in pixels; else 0.
        uri: where it can be read, where the result itself has no room for it.
    """

    mime: str
    data: bytes = field(repr=False)
    width: int = 0
    height: int = 0
    uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Something a program showed beside its output.

    Attributes:
        text: as the language writes it; `cut` where that is not all.
        json: as JSON, in a tuple of one; empty where it is not JSON.
        forms: pictures and other text.
        notes: what is left out, and why.
    """

    text: str = ""
    cut: bool = False
    json: tuple[Any, ...] = ()
    forms: tuple[Form, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileReport:
    """What the compiler did, apart from the program.

    Attributes:
        output: its stdout and stderr together, as they came.
    """

    exit_code: int | None
    signal: str | None
    output: Captured
    usage: Usage
    timeout_s: float


class Change(StrEnum):
    """What a run did to a file."""

    CREATED = "created"
    MODIFIED = "modified"
    DELETED = "deleted"


class Why(StrEnum):
    """Why a file that a run changed does not come back."""

    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"
    NAME = "name_not_utf8"
    PATH = "path_not_portable"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    CHANGED = "changed_while_read"
    UNREADABLE = "unreadable"
    NO_ROOM = "no_room"
    NOT_SEARCHED = "not_searched"
    NOT_LISTED = "not_listed"  # it comes back, but the list has no room for it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """A regular file that a run created, modified or deleted.

    Attributes:
        path: relative to /sandbox.
        size, mode, mime, sha256: of the content as received; None for a deleted file.
        uri: where the content can be read until it expires; None for a deleted file.
    """

    path: str
    change: Change
    size: int | None = None
    mode: int | None = None
    mime: str | None = None
    sha256: str | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Omitted:
    """Something that a run changed and that does not come back.

    Attributes:
        path: relative to /sandbox, bytes that are not UTF-8 as `\\xNN`; None for several.
        size: its logical size.
        target: where a symbolic link points, as text.
        count: how many, where there is no path; 0 where that is not known.
    """

    reason: Why
    path: str | None = None
    change: Change | None = None
    size: int | None = None
    target: str | None = None
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What a run did to the files under /sandbox; both parts in the order of the paths."""

    changed: tuple[ChangedFile, ...] = ()
    omitted: tuple[Omitted, ...] = ()


class SessionState(StrEnum):
    """What a call did to its session. Closed: clients switch on it."""

    CREATED = "created"
    REUSED = "reused"
    LOST_AND_RECREATED = "lost_and_recreated"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """What became of a session by one call.

    Attributes:
        state: `lost_and_recreated`: its cell was lost, and another is there, empty.
        reason: what the caller must know beyond that, in sentences.
        kept: what the next call will find of `files` and `variables`; each was checked.
        expires_in_s: seconds until it is closed if no other call comes.
        runs: calls so far, this one included.
        waited_s: seconds that this call waited for an earlier one of the session.
    """

    id: str
    state: SessionState
    reason: str | None
    kept: tuple[str, ...]
    age_s: float
    expires_in_s: float
    runs: int
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """An open session as its caller sees it listed."""

    id: str
    languages: tuple[str, ...]
    busy: bool
    waiting: int
    age_s: float
    idle_s: float
    expires_in_s: float
    runs: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What became of one test case; `status` is None where it never ran."""

    verdict: Verdict
    status: Status | None = None
    exit_code: int | None = None
    signal: str | None = None
    stdout: Captured = Captured()
    stderr: Captured = Captured()
    usage: Usage = Usage()
    timeout_s: float = 0.0
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The truthful result of one run."""

    run_id: str
    status: Status
    exit_code: int | None
    signal: str | None
    stdout: Captured
    stderr: Captured
    usage: Usage
    execution_time_s: float  # from the caller's request to the result, queueing included
    error_message: str | None
    plan: Plan
    isolation: Isolation
    compile: CompileReport | None = None
    files: FileReport = FileReport()
    session: SessionReport | None = None
    result: Value | None = None  # of the last expression
    displays: tuple[Value, ...] = ()  # in the order in which they came
    tests: tuple[CaseResult, ...] = ()  # in the order of the request


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageInfo:
    """What `list_languages` tells about one language, as really installed."""

    id: str
    title: str
    aliases: tuple[str, ...]
    extensions: tuple[str, ...]
    file_name: str
    command: tuple[str, ...]
    compile_command: tuple[str, ...] = ()
    installed: bool
    version: str | None
    warm_cells: int
    preinstalled: tuple[str, ...]
    limits: RunLimits
    max_timeout_s: float
    cell_limits: CellLimits
    notes: str = ""
