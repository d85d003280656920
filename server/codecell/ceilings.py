"""What a language and a request get of the limits that are set; pure. No ceiling is passed."""

import math

from codecell.errors import RequestError
from codecell.language import Language
from codecell.model import CellLimits, RunLimits
from codecell.settings import LimitSettings

CHARS_PER_TOKEN = 4  # near enough for English text and code


def compile_timeout_s(language: Language, limits: LimitSettings) -> float:
    """Return a compile step's time limit."""
    return min(language.compile_timeout_s or limits.compile_timeout_s, limits.max_compile_timeout_s)


def cell_limits(language: Language, limits: LimitSettings) -> CellLimits:
    """Return a cell's limits: what the language declares, never past a ceiling."""
    sandbox = language.sandbox_bytes or int(limits.sandbox)
    tmp = language.tmp_bytes or int(limits.tmp)
    room = int(limits.max_tmpfs)
    return CellLimits(
        memory_bytes=min(language.memory_bytes or int(limits.memory), int(limits.max_memory)),
        cpus=min(language.cpus or limits.cpus, limits.max_cpus),
        pids=min(language.pids or limits.processes, limits.max_processes),
        sandbox_bytes=min(sandbox, room * sandbox // (sandbox + tmp)),
        tmp_bytes=min(tmp, room * tmp // (sandbox + tmp)),
    )


def lowered(language: Language, limits: LimitSettings) -> tuple[str, ...]:
    """Name, for the notes, the ceilings that keep a language below what its toolchain wants."""
    wants = (
        (language.memory_bytes, "max_memory"),
        (language.cpus, "max_cpus"),
        (language.pids, "max_processes"),
        (language.compile_timeout_s, "max_compile_timeout_s"),
    )
    return tuple(
        f"limits.{ceiling} keeps it below the {want:,} that its toolchain asks for"
        for want, ceiling in wants
        if want is not None and want > getattr(limits, ceiling)
    )


def run_limits(
    timeout_s: float | None, limits: LimitSettings, max_output_tokens: int | None = None
) -> RunLimits:
    """Return a run's limits; a timeout past its ceiling is refused, never silently lowered."""
    wanted = limits.timeout_s if timeout_s is None else timeout_s
    if not math.isfinite(wanted) or not 0 < wanted <= limits.max_timeout_s:
        raise RequestError(
            f"timeout must be a number of seconds above 0 and at most {limits.max_timeout_s:g}"
            f" (the configured ceiling); leave it out for {limits.timeout_s:g}"
        )
    tokens = limits.output_tokens if max_output_tokens is None else max_output_tokens
    if tokens < 1:
        raise RequestError(
            "max_output_tokens must be a whole number of at least 1; leave it out for "
            f"{limits.output_tokens:,}"
        )
    return RunLimits(
        timeout_s=wanted,
        output_chars=limits.output_chars,
        output_kill_bytes=int(limits.output_kill),
        # The number of tokens is only a default; both streams whole are the ceiling, tests or not.
        total_chars=min(tokens * CHARS_PER_TOKEN, 2 * limits.output_chars),
        stream_bytes=int(limits.stream),
        values_bytes=int(limits.values),
    )
