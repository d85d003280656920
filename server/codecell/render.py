"""Results as text for models that see only text, harmless to terminals, within the size budget.

Pure. The text states the same facts as the structured result. A program's output comes first; what
the server says follows under headings that carry the run's id, which a program can't know and so
can't forge.
"""

from collections.abc import Iterable

from pydantic_core import to_json

from codecell.listing import FEW_FILES, file_facts, fit_files
from codecell.output import mark
from codecell.visible import harmless, json_size, size
from codecell.wire import (
    CompileOutput,
    ExecuteCodeOutput,
    LanguageOutput,
    LimitsOutput,
    ListLanguagesOutput,
    OpenSessionOutput,
    SessionOutput,
    TestOutput,
)
from codecell.wire_values import ValueOutput

# Clients refuse an event of more than 1 MiB, and some count the envelope; so a margin stays.
MAX_RESULT_BYTES = 900_000
_ENVELOPE_BYTES = 2_000
_MAX_MESSAGE_CHARS = 2_000
_CHUNK = 4_096
_LEAST_SHOWN = 500
_MARK_BYTES = 120  # more than `mark` costs in both places
# Upper bound of what one character can cost: an escaped pair of surrogates in both places.
_DEAREST_CHAR = 12 + 12


def fit(result: ExecuteCodeOutput, beside: int = 0) -> ExecuteCodeOutput:
    """Shorten lists and streams until structured result and text together fit; the flags tell.

    Args:
        result: what is to be sent.
        beside: bytes that its other content takes.
    """
    if (files := fit_files(result.files)) is not result.files:
        result = result.model_copy(update={"files": files})
    message = result.error_message
    if message is not None and len(message) > _MAX_MESSAGE_CHARS:
        result = result.model_copy(update={"error_message": message[:_MAX_MESSAGE_CHARS] + "..."})
    texts = _texts(result)
    shows = bool(result.result or result.displays or result.tests)
    small = sum(map(len, texts.values())) * _DEAREST_CHAR < MAX_RESULT_BYTES // 2
    listed = sum(len(found) for _, found in result.files)
    if small and not beside and not shows and listed < FEW_FILES:
        return result
    most = MAX_RESULT_BYTES - _ENVELOPE_BYTES - beside
    bare = _bare(result)
    if shows and wire_bytes(bare) > most * 3 // 4:
        result, bare = _with_less_shown(result), _with_less_shown(bare)
    room = most - wire_bytes(bare)
    costs = {name: _cost(text) for name, text in texts.items()}
    if sum(costs.values()) <= room:
        return result
    # Equal shares, and what the smaller texts leave unused goes to the larger.
    kept: dict[str, tuple[str, str] | None] = {}
    for name in sorted(texts, key=lambda name: costs[name]):
        kept[name] = _ends(texts[name], room // (len(texts) - len(kept)))
        ends = kept[name]
        room -= costs[name] if ends is None else _cost("".join(ends)) + _MARK_BYTES
    return _with_texts(result, kept)


def _texts(result: ExecuteCodeOutput) -> dict[str, str]:
    """Return what a result quotes, by where it stands."""
    texts = {"stdout": result.stdout, "stderr": result.stderr}
    if result.compile is not None:
        texts["compile"] = result.compile.output
    return texts


def _bare(result: ExecuteCodeOutput) -> ExecuteCodeOutput:
    """Return a result that quotes nothing."""
    update: dict[str, object] = {"stdout": "", "stderr": ""}
    if result.compile is not None:
        update["compile"] = result.compile.model_copy(update={"output": ""})
    return result.model_copy(update=update)


def _with_texts(
    result: ExecuteCodeOutput, texts: dict[str, tuple[str, str] | None]
) -> ExecuteCodeOutput:
    """Cut the texts of a result to these ends and flag it."""
    update: dict[str, object] = {}
    for name in ("stdout", "stderr"):
        text, elided = _put(
            texts[name], getattr(result, name), getattr(result, f"{name}_elided_bytes")
        )
        update |= {
            name: text,
            f"{name}_elided_bytes": elided,
            f"{name}_truncated": elided > 0 or getattr(result, f"{name}_truncated"),
        }
    if result.compile is not None:
        text, elided = _put(texts["compile"], result.compile.output, 0)
        truncated = result.compile.output_truncated or elided > 0
        update["compile"] = result.compile.model_copy(
            update={"output": text, "output_truncated": truncated}
        )
    return result.model_copy(update=update)


def _put(ends: tuple[str, str] | None, whole: str, elided: int) -> tuple[str, int]:
    """Return a text cut to its ends, with a line between them, and how much is left out."""
    if ends is None:
        return whole, elided
    first, last = ends
    out = whole[len(first) : len(whole) - len(last)]
    here = len(out.encode())
    if elided and mark(elided) in out:  # it was cut before, and the line on that is cut out now
        here += elided - len(mark(elided).encode())
        return f"{first}{mark(here)}{last}", here
    return f"{first}{mark(here)}{last}", here + elided


def _with_less_shown(result: ExecuteCodeOutput) -> ExecuteCodeOutput:
    """Leave of values only the beginning of their text; only hostile ones are that large."""
    note = "its rich forms are left out: the result has no room for them"

    def less(value: ValueOutput) -> ValueOutput:
        update = {
            "text": value.text[:_LEAST_SHOWN],
            "text_truncated": value.text_truncated or len(value.text) > _LEAST_SHOWN,
            "json_": None,
            "mime": {},
            "notes": [note],
        }
        return value.model_copy(update=update)

    shown = less(result.result) if result.result else None
    displays = [less(value) for value in result.displays]
    tests = [
        test.model_copy(
            update={
                "stdout": test.stdout[:_LEAST_SHOWN],
                "stderr": test.stderr[:_LEAST_SHOWN],
                "stdout_truncated": test.stdout_truncated or len(test.stdout) > _LEAST_SHOWN,
                "stderr_truncated": test.stderr_truncated or len(test.stderr) > _LEAST_SHOWN,
            }
        )
        for test in result.tests
    ]
    return result.model_copy(update={"result": shown, "displays": displays, "tests": tests})


def wire_bytes(result: ExecuteCodeOutput) -> int:
    """Return what a result costs on the wire, as structured content and as text."""
    return json_size(result.model_dump_json()) + _json_size(result_text(result))


def _cost(text: str) -> int:
    return _json_size(text) + _json_size(harmless(text))


def _json_size(text: str) -> int:
    return json_size(to_json(text).decode())


def _ends(text: str, room: int) -> tuple[str, str] | None:
    """Return beginning and end of a text that cost at most `room`; None if all of it does."""
    if _cost(text) <= room:
        return None
    room -= _MARK_BYTES
    first = _prefix(text, room // 2)
    last = _prefix(text[len(first) :][::-1], room - _cost(first))[::-1]
    return first, last


def _prefix(text: str, room: int) -> str:
    """Return the longest beginning that costs at most `room`, in one pass over it."""
    end, step = 0, _CHUNK
    while step:
        chunk = text[end : end + step]
        cost = _cost(chunk) if chunk else 0
        if chunk and cost <= room:
            end += len(chunk)
            room -= cost - 4  # the quotes of both strings are paid for once, by the caller
        else:
            step //= 2
    return text[:end]


def result_text(result: ExecuteCodeOutput) -> str:
    """Write a result for a model that sees only text: the program's output, then the facts."""
    stdout, stderr = harmless(result.stdout), harmless(result.stderr)
    parts = []
    if result.compile is not None and result.compile.output:
        said = harmless(result.compile.output)
        parts += [f"--- compiler output of run {result.run_id} ---\n", _ended(said)]
        if stdout:
            parts += [f"--- stdout of run {result.run_id} ---\n"]
    parts += [_ended(stdout)]
    if stderr:
        parts += [f"--- stderr of run {result.run_id} ---\n", _ended(stderr)]
    for number, test in enumerate(result.tests, 1):
        parts += [f"--- test {number} of run {result.run_id} ---\n", *_test(test)]
    for number, shown in enumerate(result.displays, 1):
        parts += [f"--- display {number} of run {result.run_id} ---\n", *_value(shown)]
    if result.result is not None:
        parts += [f"--- value of run {result.run_id} ---\n", *_value(result.result)]
    parts += [f"--- result of run {result.run_id} ---\n", "\n".join(facts(result))]
    return "".join(parts)


def _test(test: TestOutput) -> Iterable[str]:
    ending = f"{test.verdict.value}"
    if test.status is not None:
        ending += f", {test.status.value}, {test.usage.wall_s:.3f} s of {test.timeout_s:g} s"
    yield f"{ending}\n"
    if test.message:
        yield f"{harmless(test.message)}\n"
    if test.stdout and test.verdict.value != "passed":
        yield "stdout:\n" + _ended(harmless(test.stdout))
    if test.stderr:
        yield "stderr:\n" + _ended(harmless(test.stderr))


def _value(value: ValueOutput) -> Iterable[str]:
    if value.text:
        yield _ended(harmless(value.text) + ("..." if value.text_truncated else ""))
    for form in value.files:
        pixels = f", {form.width} x {form.height}" if form.width else ""
        where = f"image {form.image}" if form.image else f"read {form.uri}"
        yield f"[{where}: {form.mime_type}{pixels}, {size(form.bytes)}]\n"
    for note in value.notes:
        yield f"[{harmless(note)}]\n"


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def facts(result: ExecuteCodeOutput) -> Iterable[str]:
    """Yield what the server knows of a run, one line each, status first."""
    ending = f"status: {result.status.value}"
    if result.exit_code is not None:
        ending += f", exit code {result.exit_code}"
    if result.signal is not None:
        ending += f", ended by {result.signal}"
    yield ending
    if result.error_message is not None:
        yield f"error: {harmless(result.error_message)}"
    if result.compile is not None:
        yield f"compile: {_compile(result.compile)}"
    if result.session is not None:
        yield f"session: {_session(result.session)}"
    yield (
        "stdout: "
        + _stream(
            result.stdout, result.stdout_bytes, result.stdout_truncated, result.stdout_repaired
        )
        + _rest(
            result.stdout_elided_bytes,
            result.stdout_resource,
            result.stdout_resource_bytes,
            result.stdout_bytes,
        )
    )
    yield (
        "stderr: "
        + _stream(
            result.stderr, result.stderr_bytes, result.stderr_truncated, result.stderr_repaired
        )
        + _rest(
            result.stderr_elided_bytes,
            result.stderr_resource,
            result.stderr_resource_bytes,
            result.stderr_bytes,
        )
    )
    yield from file_facts(result.files)
    usage = result.usage
    yield (
        f"time: {result.execution_time:.3f} s in all; program {usage.wall_s:.3f} s, "
        f"CPU {usage.cpu_s:.3f} s, peak memory {size(usage.peak_memory_bytes)}"
    )
    yield f"limits: {limits_text(result.limits)}"
    isolation = result.isolation
    walls = [name for name in ("seccomp", "apparmor") if getattr(isolation, name)]
    if isolation.user_namespace:
        walls.append("user namespace")
    yield (
        f"isolation: runtime {isolation.runtime}, image {isolation.image} "
        f"({isolation.image_digest}), network {isolation.network}, kernel {isolation.kernel}"
        f"{''.join(f', {wall}' for wall in walls)}"
    )


def _compile(step: CompileOutput) -> str:
    ending = f"exit code {step.exit_code}" if step.signal is None else f"ended by {step.signal}"
    said = _stream(step.output, step.output_bytes, step.output_truncated, step.output_repaired)
    usage = step.usage
    return (
        f"{ending}, output {said}, {usage.wall_s:.3f} s of {step.timeout_s:g} s, "
        f"CPU {usage.cpu_s:.3f} s, peak memory {size(usage.peak_memory_bytes)}"
    )


def _session(session: SessionOutput) -> str:
    line = (
        f"{session.id}, {session.state.value}, kept: {' and '.join(session.kept) or 'nothing'}, "
        f"call {session.runs}, expires in {session.expires_in_s:.0f} s if not used"
    )
    return f"{line}. {harmless(session.reason)}" if session.reason else line


def session_line(session: OpenSessionOutput) -> str:
    """Write an open session in one line."""
    now = "busy" if session.busy else f"idle for {session.idle_s:.0f} s"
    return (
        f"{session.id}: {', '.join(session.languages) or 'no sandbox'}; {now}, {session.runs} "
        f"calls, {session.age_s:.0f} s old, expires in {session.expires_in_s:.0f} s, "
        f"{size(session.memory_bytes)}"
    )


def _stream(kept: str, total: int, truncated: bool, repaired: bool) -> str:
    line = f"{total} bytes"
    if truncated:
        line += f", truncated: {len(kept)} characters are shown"
    if repaired:
        line += ", was not valid UTF-8: bad bytes are shown as \ufffd"
    return line


def _rest(elided: int, uri: str | None, stored: int, total: int) -> str:
    line = f", {elided} bytes of its middle are elided" if elided else ""
    what = "it" if stored >= total else f"its first {stored} bytes"
    return line + (f", read {what} from {uri}" if uri else "")


def limits_text(limits: LimitsOutput) -> str:
    """Write limits in one line."""
    return (
        f"{limits.timeout_s:g} s, {size(limits.memory_bytes)} memory, {limits.cpus:g} CPU, "
        f"{limits.processes} processes, {limits.output_chars} characters per stream, "
        f"/sandbox {size(limits.sandbox_bytes)}, /tmp {size(limits.tmp_bytes)}"
    )


def languages_text(result: ListLanguagesOutput) -> str:
    """Write the languages as a table for a model that sees only text."""
    rows: list[tuple[str, ...]] = [
        ("language", "version", "also", "file", "runs as", "warm", "preinstalled")
    ]
    rows += [_row(language) for language in result.languages]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    lines = [table, *_details(result.languages)]
    if result.not_installed:
        names = ", ".join(result.not_installed)
        lines.append(f"not installed (`codecell images build NAME` makes them ready): {names}")
    return "\n".join(lines)


def _row(language: LanguageOutput) -> tuple[str, ...]:
    return tuple(
        harmless(cell).replace("\n", " ")
        for cell in (
            language.id,
            language.version or ("installed" if language.installed else "not installed"),
            ", ".join(language.aliases) or "-",
            language.file_name,
            " ".join(language.command),
            str(language.warm_cells) if language.warm else "no",
            ", ".join(language.preinstalled) or "-",
        )
    )


def _details(languages: Iterable[LanguageOutput]) -> Iterable[str]:
    """Group languages by their limits: they mostly share them."""
    groups: dict[str, list[str]] = {}
    for language in languages:
        line = f"{limits_text(language.limits)}; timeout at most {language.max_timeout_s:g} s"
        groups.setdefault(line, []).append(language.id)
        if language.notes:
            yield f"note on {language.id}: {harmless(language.notes)}"
    for line, names in groups.items():
        yield f"limits of {', '.join(names)}: {line}"
