"""What a caller may use in a minute."""

import pytest

from codecell.errors import BusyError, RateLimited
from codecell.quota import Quotas
from codecell.settings import CallerSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quotas(clock: Clock, **limits: float) -> Quotas:
    given = CallerSettings.model_validate(limits)
    return Quotas(lambda name: given if name == "ann" else CallerSettings(), clock)


@pytest.mark.requirement("fair:quota")
def test_a_minute_has_so_many_runs(clock: Clock) -> None:
    limited = quotas(clock, runs_per_minute=3)
    for _ in range(3):
        limited.begin("ann")
    with pytest.raises(RateLimited, match=r"^Caller 'ann' has used its 3 runs per minute$") as said:
        limited.begin("ann")
    assert said.value.retry_after_s == pytest.approx(20)
    assert isinstance(said.value, BusyError)
    for _ in range(100):
        limited.begin("bob")  # another's limits are another's
    clock.now += said.value.retry_after_s + 0.001
    limited.begin("ann")
    with pytest.raises(RateLimited):
        limited.begin("ann")


def test_what_is_saved_up_is_at_most_one_minute(clock: Clock) -> None:
    limited = quotas(clock, runs_per_minute=2)
    clock.now += 3600
    limited.begin("ann")
    limited.begin("ann")
    with pytest.raises(RateLimited):
        limited.begin("ann")


def test_a_run_that_never_began_is_given_back(clock: Clock) -> None:
    limited = quotas(clock, runs_per_minute=1)
    limited.begin("ann")
    limited.undo("ann")
    limited.begin("ann")
    with pytest.raises(RateLimited):
        limited.begin("ann")
    limited.undo("bob")  # who has no limit has nothing to give back


@pytest.mark.requirement("fair:quota")
def test_cpu_seconds_are_paid_afterwards_and_debts_are_kept(clock: Clock) -> None:
    limited = quotas(clock, cpu_s_per_minute=60)
    limited.begin("ann")
    limited.charge("ann", 59)
    limited.begin("ann")  # a second is left
    limited.charge("ann", 31)
    with pytest.raises(RateLimited, match="60 CPU seconds per minute") as said:
        limited.begin("ann")
    assert said.value.retry_after_s == pytest.approx(36)  # 30 s of debt and a tenth of a minute
    clock.now += 30.5
    limited.begin("ann")


def test_a_refusal_for_runs_costs_no_cpu_and_the_other_way_round(clock: Clock) -> None:
    limited = quotas(clock, cpu_s_per_minute=60, runs_per_minute=1)
    limited.charge("ann", 90)
    for _ in range(5):
        with pytest.raises(RateLimited, match="CPU"):
            limited.begin("ann")
    clock.now += 31
    limited.begin("ann")  # the run was not taken by the refusals


def test_callers_without_end_do_not_fill_the_memory(clock: Clock) -> None:
    limits = CallerSettings(runs_per_minute=60, cpu_s_per_minute=60)
    limited = Quotas(lambda _: limits, clock)
    for number in range(10_000):
        limited.begin(f"oauth:{number}")
        limited.charge(f"oauth:{number}", 0.5)
        clock.now += 0.1
    assert len(limited._runs) + len(limited._cpu) <= 2 * 4097
