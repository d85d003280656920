"""Many inputs, one call: a program is compiled or sent once and run on each of several cases.

Each case has a clean process in a clean cell: between two of them every process is killed, every
writable place wiped, and what the compiler had left is laid out anew. Where that can't be, the next
case gets a fresh cell, and the program is compiled again.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from codecell.errors import CellLost
from codecell.frames import Kind
from codecell.link import Link
from codecell.model import (
    Captured,
    Case,
    CaseResult,
    Ending,
    Facts,
    Plan,
    Status,
    Step,
    Usage,
    Verdict,
)
from codecell.output import Capture, shares, show_together
from codecell.verdict import signal_name, verdict

_JUDGED_BYTES = 1024 * 1024  # of a case's output; nothing more of it is kept
_LEAST_CHARS = 200  # shown of a case's output, however many cases there are

Lease = Callable[[], AbstractAsyncContextManager[Link]]
Compile = Callable[[Link], Awaitable[Facts]]
Job = Callable[[Step], bytes]


def same_output(expected: str, written: bytes) -> bool:
    """Compare as judges do.

    White space at the end of a line, and empty lines at the end, make no difference; everything
    else does. Bytes that are not UTF-8 equal no text.
    """
    try:
        text = written.decode()
    except UnicodeDecodeError:
        return False
    return _trimmed(expected) == _trimmed(text)


def _trimmed(text: str) -> list[str]:
    lines = [line.rstrip(" \t\r\f\v") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def judge(status: Status, case: Case, written: bytes | None) -> Verdict:
    """Decide on a case; `written` is None where the output was too long to be compared."""
    if status is not Status.SUCCESS:
        return Verdict.ERROR
    if case.expected is None:
        return Verdict.PASSED
    if written is not None and same_output(case.expected, written):
        return Verdict.PASSED
    return Verdict.FAILED


def tally(results: Sequence[CaseResult]) -> tuple[Status, str | None]:
    """Turn the cases into the status of the call and one sentence."""
    counts = {kind: sum(result.verdict is kind for result in results) for kind in Verdict}
    if counts[Verdict.PASSED] == len(results):
        return Status.SUCCESS, None
    parts = ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count)
    return Status.EXECUTION_ERROR, f"Not all {len(results)} tests passed: {parts}."


def total(results: Sequence[CaseResult]) -> Usage:
    """Sum up what the cases cost."""
    return Usage(
        wall_s=sum(result.usage.wall_s for result in results),
        cpu_s=sum(result.usage.cpu_s for result in results),
        peak_memory_bytes=max((result.usage.peak_memory_bytes for result in results), default=0),
    )


async def run_cases(
    plan: Plan, lease: Lease, compiled: Compile, job: Job, results: list[CaseResult]
) -> Facts:
    """Run the cases of a plan, in order, under one deadline.

    Args:
        plan: whose last step is the program's.
        lease: gives a cell.
        compiled: does the steps before, in a cell.
        job: what the waiting process of a step is told.
        results: gets the result of each case as it is known, and in the end of all.

    Returns:
        The facts of the step that failed before any case, or of a good end.

    Raises:
        SandboxError: a cell failed for a reason that is not the program's.
    """
    facts = Facts(ending=Ending.EXITED, exit_code=0)
    deadline: float | None = None
    spared = False  # whether the case at hand has met a cell that was dead already
    while len(results) < len(plan.cases):
        async with lease() as link:
            facts = await compiled(link)
            if facts.ending is not Ending.EXITED or facts.exit_code != 0:
                return facts
            if deadline is None:
                deadline = time.monotonic() + plan.limits.timeout_s
            while link.lost is None and len(results) < len(plan.cases):
                left_s = deadline - time.monotonic()
                failed = any(result.verdict is not Verdict.PASSED for result in results)
                if left_s <= 0 or (failed and plan.stop_on_failure):
                    why = "the time of all tests is over" if left_s <= 0 else "a test before failed"
                    results += [_skipped(case, why) for case in plan.cases[len(results) :]]
                    break
                try:
                    results.append(await _run(link, plan, job, len(results), left_s))
                except CellLost:
                    if link.went or spared:
                        raise
                    spared = True  # its program was never told to go: another cell may do
                    break
                spared = False
                if len(results) < len(plan.cases):
                    await link.recycled()
    return facts


def _skipped(case: Case, why: str) -> CaseResult:
    return CaseResult(
        verdict=Verdict.SKIPPED, timeout_s=case.timeout_s or 0.0, message=f"Not run: {why}."
    )


async def _run(link: Link, plan: Plan, job: Job, index: int, left_s: float) -> CaseResult:
    """Run one case."""
    case = plan.cases[index]
    timeout_s = min(case.timeout_s or left_s, left_s)
    step = plan.steps[-1]
    step = replace(step, argv=(*step.argv, *case.args), timeout_s=timeout_s)
    chars = max(plan.limits.total_chars // len(plan.cases), _LEAST_CHARS)
    limits = replace(
        plan.limits,
        timeout_s=timeout_s,
        total_chars=chars,
        values_bytes=0,
        stream_bytes=min(plan.limits.stream_bytes, _JUDGED_BYTES),
    )
    streams = {Kind.STDOUT: Capture(*shares(limits)), Kind.STDERR: Capture(*shares(limits))}
    facts = await link.run(
        step,
        job=job(step),
        files=plan.files if len(plan.steps) == 1 else (),
        stdin=case.stdin,
        limits=limits,
        on_output=lambda kind, data: streams[kind].add(data),
        case="last" if index + 1 == len(plan.cases) else "next",
    )
    out = streams[Kind.STDOUT].finish(facts.stdout_bytes, facts.stdout_sha256)
    err = streams[Kind.STDERR].finish(facts.stderr_bytes, facts.stderr_sha256)
    status, message = verdict(facts, replace(plan, limits=limits))
    found = judge(status, case, None if out.gap else out.head)
    if found is Verdict.FAILED:
        message = "The output is not the expected one."
    shown: dict[str, Captured] = show_together({"stdout": out, "stderr": err}, limits)
    return CaseResult(
        verdict=found,
        status=status,
        exit_code=facts.exit_code,
        signal=signal_name(facts.signal) if facts.signal is not None else None,
        stdout=shown["stdout"],
        stderr=shown["stderr"],
        usage=facts.usage,
        timeout_s=timeout_s,
        message=message,
    )
