"""From facts to a status and one sentence; pure, and blind to what was printed."""

import signal as signals

from codecell.model import Ending, Facts, Plan, Status, Step


def verdict(facts: Facts, plan: Plan, step: Step | None = None) -> tuple[Status, str | None]:
    """Turn facts into a status and one sentence; pure, and blind to what was printed.

    Args:
        facts: of the last step that ran.
        plan: what was to be done.
        step: that step; by default the program's own.
    """
    if step is not None and step.kind == "compile":
        return _compile_verdict(facts, plan, step)
    memory = f"{plan.cell.limits.memory_bytes // 2**20} MiB"
    match facts.ending:
        case Ending.CANCELLED:
            return Status.CANCELLED, "The run was cancelled; what it had printed is kept."
        case Ending.TIMEOUT:
            limit_s = round(plan.limits.timeout_s, 2)  # of a test it may be what was left of a time
            return Status.TIMEOUT, f"Execution timed out after {limit_s:g} seconds."
        case Ending.OUTPUT_LIMIT:
            most = plan.limits.output_kill_bytes
            return (
                Status.OUTPUT_LIMIT,
                f"The program printed more than {most:,} bytes and was ended.",
            )
        case Ending.OUT_OF_MEMORY:
            return Status.OUT_OF_MEMORY, f"The cell ran out of its {memory} of memory."
        case Ending.EXITED if facts.exit_code == 0:
            return Status.SUCCESS, None
        case Ending.EXITED if facts.oom_kills:
            return Status.OUT_OF_MEMORY, f"The program ran out of its {memory} of memory."
        case Ending.EXITED if facts.heap_full:
            return Status.OUT_OF_MEMORY, f"The program's heap was full; the cell has {memory}."
        case _:
            return Status.EXECUTION_ERROR, f"The program {_how(facts)}."


def _compile_verdict(facts: Facts, plan: Plan, step: Step) -> tuple[Status, str | None]:
    memory = f"{plan.cell.limits.memory_bytes // 2**20} MiB"
    match facts.ending:
        case Ending.CANCELLED:
            return Status.CANCELLED, "The run was cancelled while the program was being compiled."
        case Ending.TIMEOUT:
            return Status.TIMEOUT, f"Compilation timed out after {step.timeout_s:g} seconds."
        case Ending.OUTPUT_LIMIT:
            most = plan.limits.output_kill_bytes
            return (
                Status.OUTPUT_LIMIT,
                f"The compiler printed more than {most:,} bytes and was ended.",
            )
        case Ending.OUT_OF_MEMORY:
            return Status.OUT_OF_MEMORY, f"The compiler ran out of the cell's {memory} of memory."
        case Ending.EXITED if facts.oom_kills and facts.exit_code != 0:
            return Status.OUT_OF_MEMORY, f"The compiler ran out of the cell's {memory} of memory."
    return (
        Status.COMPILE_ERROR,
        f"The program did not compile (the compiler {_how(facts)}); see compile.output.",
    )


def _how(facts: Facts) -> str:
    if facts.signal is not None:
        return f"was killed by {signal_name(facts.signal)}"
    return f"exited with code {facts.exit_code}"


def signal_name(number: int) -> str:
    """Return `SIGSEGV` for 11; real-time signals by number."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"SIG{number}"
