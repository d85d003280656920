"""Between the wire contract and the values that flow; pure."""

import base64
import binascii

from codecell.errors import RequestError
from codecell.model import (
    Case,
    CaseResult,
    CellLimits,
    Change,
    CompileReport,
    FileReport,
    Input,
    LanguageInfo,
    Outcome,
    Request,
    RunLimits,
    SessionInfo,
    SessionReport,
    Usage,
)
from codecell.wire import (
    CompileOutput,
    ExecuteCodeInput,
    ExecuteCodeOutput,
    FileInput,
    FileOutput,
    FilesOutput,
    IsolationOutput,
    LanguageOutput,
    LimitsOutput,
    ListLanguagesOutput,
    OmittedOutput,
    OpenSessionOutput,
    SessionOutput,
    TestInput,
    TestOutput,
    UsageOutput,
)
from codecell.wire_values import to_values

_CONTENTS = ("content", "content_base64", "uri")


def to_request(arguments: ExecuteCodeInput, caller: str) -> Request:
    """Turn valid arguments into a request; whether it can be served is the policy's decision.

    Raises:
        RequestError: a file has no content, several, or one that is not base64.
    """
    return Request(
        language=arguments.language,
        code=arguments.code,
        stdin=arguments.stdin,
        args=tuple(arguments.args),
        env=tuple(arguments.env.items()),
        files=tuple(_input(index, file) for index, file in enumerate(arguments.files)),
        entrypoint=arguments.entrypoint,
        timeout_s=arguments.timeout,
        max_output_tokens=arguments.max_output_tokens,
        caller=caller,
        session_id=arguments.session_id,
        idempotency_key=arguments.idempotency_key,
        tests=tuple(_case(test) for test in arguments.tests),
        stop_on_failure=arguments.stop_on_failure,
    )


def _input(index: int, file: FileInput) -> Input:
    given = [name for name in _CONTENTS if getattr(file, name) is not None]
    if len(given) != 1:
        sent = " and ".join(given) or "none"
        raise RequestError(f"files[{index}] must have one of {', '.join(_CONTENTS)}, not {sent}")
    if file.content is not None:
        try:
            return Input(path=file.path, content=file.content.encode())
        except UnicodeEncodeError as error:
            raise RequestError(
                f"files[{index}].content has a lone surrogate at character {error.start}: send "
                "valid Unicode text, or content_base64"
            ) from error
    if file.content_base64 is None:
        return Input(path=file.path, uri=file.uri)
    try:
        return Input(path=file.path, content=base64.b64decode(file.content_base64, validate=True))
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"files[{index}].content_base64 is not base64: {error}") from error


def _case(test: TestInput) -> Case:
    return Case(
        # What is no text is refused by the policy, as in stdin.
        stdin=test.stdin.encode("utf-8", "surrogatepass"),
        args=tuple(test.args),
        expected=test.expected_stdout,
        timeout_s=test.timeout,
    )


def from_outcome(outcome: Outcome) -> ExecuteCodeOutput:
    """State a run's outcome in the terms of the contract."""
    value, displays = to_values(outcome)
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
        stdout_elided_bytes=outcome.stdout.elided_bytes,
        stderr_elided_bytes=outcome.stderr.elided_bytes,
        stdout_sha256=outcome.stdout.sha256,
        stderr_sha256=outcome.stderr.sha256,
        stdout_resource=outcome.stdout.uri,
        stderr_resource=outcome.stderr.uri,
        stdout_resource_bytes=outcome.stdout.stored_bytes,
        stderr_resource_bytes=outcome.stderr.stored_bytes,
        result=value,
        displays=displays,
        tests=[_test(result) for result in outcome.tests],
        execution_time=round(outcome.execution_time_s, 6),
        error_message=outcome.error_message,
        compile=_compile(outcome.compile) if outcome.compile else None,
        files=_files(outcome.files),
        session=_session(outcome.session) if outcome.session else None,
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


def _files(report: FileReport) -> FilesOutput:
    kept: dict[Change, list[FileOutput]] = {Change.CREATED: [], Change.MODIFIED: []}
    for file in report.changed:
        if file.uri is not None:
            kept[file.change].append(
                FileOutput(
                    path=file.path,
                    size=file.size or 0,
                    mode=f"{file.mode or 0:04o}",
                    mime_type=file.mime or "",
                    sha256=file.sha256 or "",
                    uri=file.uri,
                )
            )
    return FilesOutput(
        created=kept[Change.CREATED],
        modified=kept[Change.MODIFIED],
        deleted=[file.path for file in report.changed if file.change is Change.DELETED],
        omitted=[
            OmittedOutput(
                path=item.path,
                change=item.change,
                reason=item.reason,
                size=item.size,
                target=item.target,
                count=item.count,
            )
            for item in report.omitted
        ],
    )


def _test(result: CaseResult) -> TestOutput:
    return TestOutput(
        verdict=result.verdict,
        status=result.status,
        exit_code=result.exit_code,
        signal=result.signal,
        stdout=result.stdout.text,
        stderr=result.stderr.text,
        stdout_bytes=result.stdout.total_bytes,
        stderr_bytes=result.stderr.total_bytes,
        stdout_truncated=result.stdout.truncated,
        stderr_truncated=result.stderr.truncated,
        message=result.message,
        timeout_s=round(result.timeout_s, 3),
        usage=_usage(result.usage),
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


def _session(report: SessionReport) -> SessionOutput:
    return SessionOutput.model_validate(
        {
            "id": report.id,
            "state": report.state,
            "reason": report.reason,
            "kept": list(report.kept),
            "age_s": round(report.age_s, 3),
            "expires_in_s": round(report.expires_in_s, 3),
            "runs": report.runs,
            "waited_s": round(report.waited_s, 3),
        }
    )


def from_session(info: SessionInfo) -> OpenSessionOutput:
    """State an open session in the terms of the contract."""
    return OpenSessionOutput(
        id=info.id,
        languages=list(info.languages),
        busy=info.busy,
        waiting=info.waiting,
        age_s=round(info.age_s, 3),
        idle_s=round(info.idle_s, 3),
        expires_in_s=round(info.expires_in_s, 3),
        runs=info.runs,
        memory_bytes=info.memory_bytes,
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
