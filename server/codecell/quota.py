"""What a caller may use in a minute: buckets that fill up steadily; no I/O, the clock is given."""

from collections.abc import Callable
from dataclasses import dataclass

from codecell.errors import RateLimited
from codecell.settings import CallerSettings

_MINUTE_S = 60.0
_REMEMBERED = 4096  # callers whose buckets are kept; beyond, the full ones are forgotten


@dataclass(slots=True)
class Bucket:
    """Holds at most a minute's worth; may be in debt, which the next minutes pay."""

    per_minute: float
    level: float
    at: float

    def now(self, at: float) -> float:
        """Return the level after filling up until `at`."""
        filled = self.level + (at - self.at) * self.per_minute / _MINUTE_S
        self.level, self.at = min(self.per_minute, filled), at
        return self.level

    def wait_s(self, amount: float) -> float:
        """Return the seconds until there is so much in it, as of the last look."""
        return max(0.0, (amount - self.level) * _MINUTE_S / self.per_minute)


class Quotas:
    """The buckets of all callers.

    Args:
        limits_of: the limits of a caller, by name.
        clock: seconds, monotonic.
    """

    def __init__(
        self, limits_of: Callable[[str], CallerSettings], clock: Callable[[], float]
    ) -> None:
        self._limits_of = limits_of
        self._clock = clock
        self._runs: dict[str, Bucket] = {}
        self._cpu: dict[str, Bucket] = {}

    def concurrent(self, caller: str) -> int | None:
        """Return how many runs of a caller may be in flight; None for any number."""
        return self._limits_of(caller).concurrent

    def begin(self, caller: str) -> None:
        """Take one run out of the caller's minute.

        Raises:
            RateLimited: saying which limit, and when to come back.
        """
        limits = self._limits_of(caller)
        if limits.runs_per_minute is None and limits.cpu_s_per_minute is None:
            return
        now = self._clock()
        if limits.cpu_s_per_minute is not None:
            cpu = self._bucket(self._cpu, caller, limits.cpu_s_per_minute, now)
            if cpu.now(now) <= 0:
                amount = f"{limits.cpu_s_per_minute:g} CPU seconds"
                # A tenth of a minute's worth: not to come back for a hundredth of a second.
                raise _limited(caller, amount, cpu.wait_s(cpu.per_minute / 10))
        if limits.runs_per_minute is not None:
            runs = self._bucket(self._runs, caller, limits.runs_per_minute, now)
            if runs.now(now) < 1:
                raise _limited(caller, f"{limits.runs_per_minute} runs", runs.wait_s(1))
            runs.level -= 1

    def undo(self, caller: str) -> None:
        """Give back a run that never began."""
        if (bucket := self._runs.get(caller)) is not None:
            bucket.level = min(bucket.per_minute, bucket.level + 1)

    def charge(self, caller: str, cpu_s: float) -> None:
        """Take the CPU seconds that a run used."""
        per_minute = self._limits_of(caller).cpu_s_per_minute
        if per_minute is not None:
            now = self._clock()
            bucket = self._bucket(self._cpu, caller, per_minute, now)
            bucket.now(now)
            bucket.level -= cpu_s

    def _bucket(
        self, buckets: dict[str, Bucket], caller: str, per_minute: float, now: float
    ) -> Bucket:
        bucket = buckets.get(caller)
        if bucket is None:
            if len(buckets) >= _REMEMBERED:
                for name in [n for n, b in buckets.items() if b.now(now) >= b.per_minute]:
                    del buckets[name]
            bucket = buckets[caller] = Bucket(per_minute, per_minute, now)
        return bucket


def _limited(caller: str, amount: str, retry_after_s: float) -> RateLimited:
    return RateLimited(
        f"Caller {caller!r} has used its {amount} per minute", retry_after_s=retry_after_s
    )
