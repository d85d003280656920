"""The MCP wire contract: what callers send, what they get, how a bad request is explained.

These models are the one source of the published schemas (tool_schemas/). Input is strict: a
JSON boolean or string is not a number, and an unknown field is an error that names the field.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codecell.model import (
    CellLimits,
    CompileReport,
    LanguageInfo,
    Outcome,
    Request,
    RunLimits,
    Status,
    Usage,
)

_SHOWN_ERRORS = 5
_SHOWN_NAME = 40


@dataclass(frozen=True, slots=True)
class Expect:
    """What a field accepts, worded to follow "must be"."""

    text: str


class WireInput(BaseModel):
    """What a caller sends: strict JSON types, no unknown field."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class WireOutput(BaseModel):
    """What a caller gets."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ExecuteCodeInput(WireInput):
    """Arguments of `execute_code`."""

    language: Annotated[str, Expect('a string that names a language, such as "python"')] = Field(
        description='Language id or alias from list_languages, such as "python" or "bash".'
    )
    code: Annotated[str, Expect("a string that holds the complete program")] = Field(
        description="The complete source of the program. Print what you want to see."
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
    timeout: Annotated[
        float | None, Expect("a finite number of seconds greater than 0, such as 10")
    ] = Field(
        None, gt=0, description="Time limit in seconds; leave out for the language's default."
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
    execution_time: float = Field(description="Seconds from call to result, waiting included.")
    error_message: str | None = Field(description="What went wrong, in one sentence, or null.")
    compile: CompileOutput | None = Field(
        description="The compile step, apart from the run; null for a language without one."
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


def to_request(arguments: ExecuteCodeInput, caller: str) -> Request:
    """Turn valid arguments into a request; whether it can be served is the policy's decision."""
    return Request(
        language=arguments.language,
        code=arguments.code,
        stdin=arguments.stdin,
        args=tuple(arguments.args),
        env=tuple(arguments.env.items()),
        timeout_s=arguments.timeout,
        caller=caller,
    )


def from_outcome(outcome: Outcome) -> ExecuteCodeOutput:
    """State a run's outcome in the terms of the contract."""
    return ExecuteCodeOutput(
        run_id=outcome.run_id,
        status=outcome.status,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        stdout=outcome.stdout.text,
        stderr=outcome.stderr.text,
        stdout_bytes=outcome.stdout.total_bytes,
        stderr_bytes=outcome.stderr.total_bytes,
        stdout_truncated=outcome.stdout.truncated,
        stderr_truncated=outcome.stderr.truncated,
        stdout_repaired=outcome.stdout.repaired,
        stderr_repaired=outcome.stderr.repaired,
        execution_time=round(outcome.execution_time_s, 6),
        error_message=outcome.error_message,
        compile=_compile(outcome.compile) if outcome.compile else None,
        usage=_usage(outcome.usage),
        limits=_limits(outcome.plan.limits, outcome.plan.cell.limits),
        isolation=IsolationOutput(
            runtime=outcome.isolation.runtime,
            image=outcome.isolation.image,
            image_digest=outcome.isolation.image_digest,
            network=outcome.isolation.network,
            kernel=outcome.isolation.kernel,
            seccomp=outcome.isolation.seccomp,
            apparmor=outcome.isolation.apparmor,
            user_namespace=outcome.isolation.user_namespace,
        ),
    )


def _usage(usage: Usage) -> UsageOutput:
    return UsageOutput(
        wall_s=round(usage.wall_s, 6),
        cpu_s=round(usage.cpu_s, 6),
        peak_memory_bytes=usage.peak_memory_bytes,
    )


def _compile(report: CompileReport) -> CompileOutput:
    return CompileOutput(
        exit_code=report.exit_code,
        signal=report.signal,
        output=report.output.text,
        output_bytes=report.output.total_bytes,
        output_truncated=report.output.truncated,
        output_repaired=report.output.repaired,
        timeout_s=report.timeout_s,
        usage=_usage(report.usage),
    )


def from_languages(infos: tuple[LanguageInfo, ...]) -> ListLanguagesOutput:
    """State what is installed in the terms of the contract."""
    return ListLanguagesOutput(
        languages=[_from_language(info) for info in infos if info.installed],
        not_installed=[info.id for info in infos if not info.installed],
    )


def _from_language(info: LanguageInfo) -> LanguageOutput:
    return LanguageOutput(
        id=info.id,
        title=info.title,
        aliases=list(info.aliases),
        version=info.version,
        installed=info.installed,
        file_name=info.file_name,
        command=list(info.command),
        compile_command=list(info.compile_command),
        warm=info.warm_cells > 0,
        warm_cells=info.warm_cells,
        preinstalled=list(info.preinstalled),
        limits=_limits(info.limits, info.cell_limits),
        max_timeout_s=info.max_timeout_s,
        notes=info.notes,
    )


def _limits(run: RunLimits, cell: CellLimits) -> LimitsOutput:
    return LimitsOutput(
        timeout_s=run.timeout_s,
        memory_bytes=cell.memory_bytes,
        cpus=cell.cpus,
        processes=cell.pids,
        output_chars=run.output_chars,
        sandbox_bytes=cell.sandbox_bytes,
        tmp_bytes=cell.tmp_bytes,
    )


def explain(error: ValidationError, model: type[WireInput]) -> str:
    """Say what to send instead: one sentence per bad field, without the values that were sent."""
    sentences = list(_sentences(error, model))
    more = len(sentences) - _SHOWN_ERRORS
    if more > 0:
        sentences[_SHOWN_ERRORS:] = [f"There are {more} more such errors."]
    return " ".join(sentences)


def _sentences(error: ValidationError, model: type[WireInput]) -> Iterator[str]:
    unknown = []
    for item in error.errors(include_url=False, include_context=False):
        location, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            unknown.append(_quoted(location[-1]))
            continue
        expected = _expected(model, location)
        if kind == "missing":
            yield f"{location[0]} is required and must be {expected}."
        else:
            yield f"{_path(location)} must be {expected}{_instead(item['input'])}."
    if unknown:
        fields = list(model.model_fields)
        valid = f"valid fields are {', '.join(fields)}" if fields else "no arguments are accepted"
        some = ", ".join(unknown[:_SHOWN_ERRORS]) + (
            ", ..." if len(unknown) > _SHOWN_ERRORS else ""
        )
        yield f"Unknown field{'s' if len(unknown) > 1 else ''} {some}; {valid}."


def _expected(model: type[WireInput], location: tuple[int | str, ...]) -> str:
    if not location:
        return "an object"
    if len(location) > 1:
        return "a string"  # the only nested values are those of args and env
    metadata = model.model_fields[str(location[0])].metadata
    return next((item.text for item in metadata if isinstance(item, Expect)), "valid")


def _path(location: tuple[int | str, ...]) -> str:
    if not location:
        return "arguments"
    inner = "".join(f"[{p}]" if isinstance(p, int) else f"[{_quoted(p)}]" for p in location[1:])
    return f"{location[0]}{inner}"


def _quoted(name: object) -> str:
    text = str(name)
    return json.dumps(text if len(text) <= _SHOWN_NAME else text[:_SHOWN_NAME] + "...")


def _instead(value: object) -> str:
    """Name the JSON type that was sent; a number of the right type speaks for itself."""
    match value:
        case None:
            return ", not null"
        case bool():
            return ", not a boolean"
        case str():
            return ", not a string"
        case list():
            return ", not an array"
        case dict():
            return ", not an object"
        case int() | float():
            return f", not {value:g}" if abs(value) < 1e15 or value != value else ""
        case _:
            return ""


def schema_of(
    model: type[BaseModel], mode: Literal["validation", "serialization"]
) -> dict[str, Any]:
    """Return a model's JSON schema without references and titles: they cost tokens."""
    schema = model.model_json_schema(mode=mode)
    definitions = schema.pop("$defs", {})
    flat: dict[str, Any] = _flatten(schema, definitions)
    flat.pop("description", None)  # the tool's own description says it
    return flat


def _flatten(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_flatten(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return {
        # "title" is noise unless it is a property of that name, whose value is a schema
        key: _flatten(value, definitions)
        for key, value in node.items()
        if key != "title" or isinstance(value, dict)
    }
