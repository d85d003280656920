"""The tables of codecell.toml: one frozen section each, every field with its meaning."""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, model_validator

from codecell.languages import DEFAULT_SET

KIB = 1024
MIB = 1024 * KIB


def _whole_bytes(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite size")
    return value


Size = Annotated[ByteSize, BeforeValidator(_whole_bytes), Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of codecell.toml: unknown keys are refused, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


# A default and the ceiling that it may not pass.
CEILINGS = (
    ("timeout_s", "max_timeout_s"),
    ("compile_timeout_s", "max_compile_timeout_s"),
    ("memory", "max_memory"),
    ("cpus", "max_cpus"),
    ("processes", "max_processes"),
    ("output_chars", "max_output_chars"),
)


class LimitSettings(Section):
    """Defaults for every run and the ceilings that nothing may pass."""

    timeout_s: Seconds = Field(30.0, description="Default time limit of a run, in seconds")
    max_timeout_s: Seconds = Field(300.0, description="Ceiling for a request's timeout, in seconds")
    compile_timeout_s: Seconds = Field(
        60.0, description="Default time limit of a compile step, in seconds"
    )
    max_compile_timeout_s: Seconds = Field(
        300.0, description="Ceiling for the compile time limit that a language may declare"
    )
    memory: Size = Field(ByteSize(256 * MIB), description="Memory of a cell; swap is never added")
    max_memory: Size = Field(
        ByteSize(2048 * MIB), description="Ceiling for the memory a language may declare"
    )
    cpus: Annotated[float, Field(gt=0, le=64)] = Field(0.5, description="CPUs of a cell")
    max_cpus: Annotated[float, Field(gt=0, le=64)] = Field(
        2.0, description="Ceiling for the CPUs a language may declare"
    )
    processes: Count = Field(50, description="Processes and threads in a cell")
    max_processes: Count = Field(
        512, description="Ceiling for the processes a language may declare"
    )
    output_chars: Count = Field(
        100_000, description="Characters of stdout, and of stderr, that a result keeps"
    )
    max_output_chars: Count = Field(400_000, description="Ceiling for output_chars")
    output_tokens: Count = Field(
        25_000,
        description="Tokens of output, of four characters each, that a result shows in all: a "
        "default for max_output_tokens, whose ceiling is output_chars of both streams",
    )
    stream: Size = Field(
        ByteSize(MIB), description="Bytes of stdout, and of stderr, that can be read later"
    )
    values: Size = Field(
        ByteSize(8 * MIB), description="Bytes of values and figures that a run may show"
    )
    output_kill: Size = Field(
        ByteSize(64 * MIB), description="Bytes of output after which a run is ended (output_limit)"
    )
    tests: Count = Field(100, description="Test cases in one request")
    code: Size = Field(ByteSize(MIB), description="Largest program accepted")
    stdin: Size = Field(ByteSize(MIB), description="Largest standard input accepted")
    sandbox: Size = Field(ByteSize(64 * MIB), description="Size of the working directory /sandbox")
    tmp: Size = Field(ByteSize(32 * MIB), description="Size of /tmp")
    max_tmpfs: Size = Field(
        ByteSize(1024 * MIB), description="Ceiling for /sandbox and /tmp together"
    )

    @model_validator(mode="after")
    def _defaults_within_ceilings(self) -> Self:
        for default, ceiling in CEILINGS:
            if getattr(self, default) > getattr(self, ceiling):
                raise ValueError(f"limits.{default} is larger than its ceiling limits.{ceiling}")
        if self.sandbox + self.tmp > self.max_tmpfs:
            raise ValueError(
                "limits.sandbox and limits.tmp together are larger than limits.max_tmpfs"
            )
        if self.sandbox + self.tmp >= self.memory:
            raise ValueError("limits.sandbox and limits.tmp together must stay below limits.memory")
        return self


class RunSettings(Section):
    """How many runs at a time, and how many may wait."""

    concurrent: Count = Field(8, description="Runs in flight at a time; further callers wait")
    queue: Annotated[int, Field(ge=0)] = Field(
        64, description="Callers that may wait; a further one is told to retry"
    )


class RetrySettings(Section):
    """Calls with an `idempotency_key`: how long a repeated one gets the first one's result."""

    ttl_s: Seconds = Field(
        600.0,
        description="Time that the result of a call with an idempotency_key is kept, in seconds",
    )
    count: Count = Field(1000, description="Such results kept at a time; the oldest go first")
    size: Size = Field(ByteSize(64 * MIB), description="Memory that such results may take together")


class PoolSettings(Section):
    """Cells kept ready before anyone asks."""

    languages: tuple[str, ...] = Field(
        DEFAULT_SET, description="Languages whose cells are made ahead of time"
    )
    min: Annotated[int, Field(ge=0, le=256)] = Field(
        2, description="Ready cells always kept per language; 0 lets idle languages go cold"
    )
    max: Annotated[int, Field(ge=0, le=256)] = Field(
        8,
        description="Ready cells kept per language while it is much used; 0 makes every cell cold",
    )
    memory: Size = Field(
        ByteSize(1024 * MIB), description="Memory that waiting cells may take together"
    )
    idle_s: Seconds = Field(
        30.0, description="Period after which cells that nobody needed begin to go, in seconds"
    )
    starting: Annotated[int, Field(ge=1, le=64)] = Field(
        4,
        description="Cells that may be starting at a time for callers that wait; "
        "half as many spares, and one while runs are in flight",
    )
    boot_s: Seconds = Field(
        30.0,
        description="Time in which a cell must come up, in seconds; up to ten times as much on a "
        "machine with more to do than it has processors",
    )
    reuse: Literal["never", "caller"] = Field(
        "never",
        description="`never`: a cell serves one run; `caller`: one caller's runs share cells",
    )

    @model_validator(mode="after")
    def _least_within_most(self) -> Self:
        if self.min > self.max:
            raise ValueError("pool.min is larger than pool.max")
        return self


class FileSettings(Section):
    """Files that a request brings, and those that a run leaves."""

    in_count: Count = Field(200, description="Files that a request may bring")
    in_size: Size = Field(
        ByteSize(16 * MIB), description="Bytes that the files of a request may have together"
    )
    out_count: Count = Field(
        200, description="Changed files of a run that are returned; further ones are counted"
    )
    out_file: Size = Field(
        ByteSize(16 * MIB), description="Largest file that is returned; a larger one is named"
    )
    out_size: Size = Field(
        ByteSize(32 * MIB), description="Bytes that the files of one run may have together"
    )
    image: Size = Field(
        ByteSize(300 * KIB), description="Largest image that is shown in the result itself"
    )
    text: Size = Field(
        ByteSize(16 * KIB), description="Largest text that is quoted in the result itself"
    )


class StoreSettings(Section):
    """Results that can be read later."""

    ttl_s: Seconds = Field(1800.0, description="How long a result can be read, in seconds")
    size: Size = Field(
        ByteSize(1024 * MIB), description="Disk that stored results may take together"
    )
    caller_size: Size = Field(
        ByteSize(256 * MIB), description="The same for one caller; its oldest make room"
    )
    items: Count = Field(20_000, description="Stored results at a time; the oldest make room")
    directory: Path | None = Field(
        None, description="Where they are spooled; by default the machine's temporary directory"
    )

    @model_validator(mode="after")
    def _share_within_all(self) -> Self:
        if self.caller_size > self.size:
            raise ValueError("store.caller_size is larger than store.size")
        return self


class SessionSettings(Section):
    """Cells that callers keep."""

    idle_s: Seconds = Field(
        1800.0, description="A session that is not used for so many seconds is closed"
    )
    max_age_s: Seconds = Field(86_400.0, description="A session this old is closed, in seconds")
    per_caller: Count = Field(8, description="Sessions that one caller may have open")
    max: Annotated[int, Field(ge=0, le=10_000)] = Field(
        32, description="Sessions open at a time; 0 turns sessions off"
    )
    memory: Size = Field(
        ByteSize(2048 * MIB), description="Memory that the cells of sessions may hold together"
    )
    evict: Literal["never", "idle"] = Field(
        "never",
        description="At a limit: `never` refuses a new session, `idle` closes the longest idle one",
    )
    wait_s: Seconds = Field(
        30.0, description="Longest wait of a call for earlier calls of its session, in seconds"
    )
    queue: Annotated[int, Field(ge=0)] = Field(
        16, description="Calls that may wait for one session"
    )


class EngineSettings(Section):
    """The container engine and how its images are named."""

    host: str | None = Field(
        None, description="Engine address; by default found as the Docker CLI finds it"
    )
    runtime: str | None = Field(
        None, description="OCI runtime (`runc`, `runsc`, `kata-*`); by default the engine's"
    )
    image_prefix: Annotated[str, Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$")] = Field(
        "codecell", description="Images are called PREFIX/LANGUAGE"
    )
    timeout_s: Seconds = Field(30.0, description="Deadline of every call to the engine, in seconds")


class SecuritySettings(Section):
    """What is demanded before anything runs."""

    attack_check: Literal["on", "off"] = Field(
        "on",
        description="Whether `serve` tries the critical walls before it runs anything, and leaves "
        "when one is missing",
    )


class LogSettings(Section):
    """Log lines go to stderr as JSON."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Least severe level that is logged"
    )
