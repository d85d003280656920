"""Pure decisions about sessions: who may open one, what goes first, what a call is told of its own.

Nothing is said to be kept here that an agent did not find (`Kept`) after the step.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from codecell.errors import RequestError
from codecell.model import Ending, Facts, Kept
from codecell.settings import SessionSettings

SHOWN = 16  # sessions that a refusal lists
NONE_OPENED = "No session was opened"


class Held(Protocol):
    """What the decisions need of an open session."""

    @property
    def id(self) -> str: ...
    @property
    def caller(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def opened(self) -> float: ...
    @property
    def used(self) -> float: ...
    @property
    def runs(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    @property
    def memory_bytes(self) -> int: ...


S = TypeVar("S", bound=Held)


def place_for(
    caller: str,
    open_: Collection[S],
    needed_bytes: int,
    now: float,
    settings: SessionSettings,
    most: int | None = None,
    further: S | None = None,
) -> list[S]:
    """Return the sessions to close so that a caller can open one more; mostly none.

    Args:
        caller: who wants one.
        open_: all that there are.
        needed_bytes: what it will likely hold.
        now: the time by which they are idle.
        settings: the limits.
        most: how many this caller may have, where that is not everyone's limit.
        further: the session that wants one more cell, where that is all: then only memory counts.

    Raises:
        RequestError: there is no place; the text lists the caller's sessions.
    """
    if settings.max == 0:
        raise RequestError(
            "this server keeps no sessions (sessions.max is 0); leave session_id out"
        )
    left = list(open_)
    going: list[S] = []
    while limit := (
        _memory(left, needed_bytes, settings)
        if further
        else _limit(caller, left, needed_bytes, settings, most or settings.per_caller)
    ):
        others = [session for session in left if session is not further]
        victim = _victim(caller, others, own=limit.startswith("you have"))
        if settings.evict == "never" or victim is None:
            what = f"No further cell was opened for {further.id}" if further else NONE_OPENED
            raise RequestError(_refusal(f"{what}: {limit}", caller, open_, now))
        left.remove(victim)
        going.append(victim)
    return going


def _limit(
    caller: str, open_: Collection[Held], needed_bytes: int, settings: SessionSettings, most: int
) -> str | None:
    """Name the limit that one more session would pass."""
    own = sum(session.caller == caller for session in open_)
    if own >= most:
        return f"you have {own} of {most} sessions open"
    if len(open_) >= settings.max:
        return f"the server has {len(open_)} of {settings.max} sessions open"
    return _memory(open_, needed_bytes, settings)


def _memory(open_: Collection[Held], needed_bytes: int, settings: SessionSettings) -> str | None:
    held = sum(session.memory_bytes for session in open_)
    if open_ and held + needed_bytes > settings.memory:
        return (
            f"the server's sessions hold {held // 2**20} MiB "
            f"of their {settings.memory // 2**20} MiB"
        )
    return None


def _victim(caller: str, open_: Iterable[S], *, own: bool) -> S | None:
    """Pick the longest idle session, the caller's own or of whoever has the most."""
    counts = Counter(session.caller for session in open_)
    idle = [session for session in open_ if not session.busy]
    if own:
        idle = [session for session in idle if session.caller == caller]
    return min(idle, key=lambda session: (-counts[session.caller], session.used), default=None)


def _refusal(limit: str, caller: str, open_: Iterable[Held], now: float) -> str:
    own = [session for session in open_ if session.caller == caller]
    if not own:
        return f"{limit}. None of them is yours; try again later."
    return f"{limit}. Yours: {listed(own, now)}. Use one of these, or close one with close_session."


def listed(sessions: Collection[Held], now: float) -> str:
    """Name sessions in a sentence, the longest idle first."""
    words = [
        f"{session.id} ({'/'.join(session.languages) or 'no cell'}, "
        + ("busy" if session.busy else f"idle for {now - session.used:.0f} s")
        + f", {session.runs} runs)"
        for session in sorted(sessions, key=lambda session: session.used)
    ]
    more = f", and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def expiry(session: Held, settings: SessionSettings) -> tuple[float, str]:
    """Return when a session is closed if nobody uses it, and why it will have been."""
    idle, age = session.used + settings.idle_s, session.opened + settings.max_age_s
    if idle <= age:
        return idle, f"it was not used for {settings.idle_s:g} s"
    return age, f"it was {settings.max_age_s:g} s old"


def kept(found: Kept | None, *, interpreter: bool) -> tuple[str, ...]:
    """Name what the next call finds, of what was looked at."""
    if found is None or not found.files:
        return ()
    return ("files", "variables") if interpreter and found.alive else ("files",)


def news(facts: Facts, *, known: int, interpreter: bool) -> str | None:
    """Tell a caller what a step did to its interpreter beyond what the status says.

    Args:
        facts: of the step, with what the agent found.
        known: the interpreter's generation after the last step; 0 before the first.
        interpreter: whether the language has one that lives between steps.
    """
    found = facts.kept
    if found is None or not interpreter:
        return None
    said = []
    began = found.generation != known
    if known and began:
        how = f" ({found.died})" if found.died else ""
        said.append(
            f"The interpreter had ended since the last call{how}: "
            "this call began without variables; files were kept."
        )
    interrupted = facts.ending is not Ending.EXITED
    if found.alive and interrupted:
        said.append("The interpreter was interrupted and answered: variables and files are kept.")
    elif not found.alive:
        said.append(f"{_why_dead(facts)}: variables are lost, files are kept.")
    return " ".join(said) or None


def left_behind(names: list[str], language: str) -> str:
    """Name the files that another language's cell has and this one does not."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"Not carried over to {language}: {', '.join(names[:SHOWN])}{more}."


def _why_dead(facts: Facts) -> str:
    match facts.ending:
        case Ending.EXITED if facts.oom_kills and facts.signal is not None:
            return "The interpreter was killed for lack of memory"
        case Ending.EXITED if facts.signal is not None:
            return f"The interpreter was ended by signal {facts.signal}"
        case Ending.EXITED:
            return f"The program ended its interpreter (exit code {facts.exit_code})"
        case _:
            return "The interpreter did not stop when it was interrupted and was killed"
