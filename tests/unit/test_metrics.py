"""Numbers that add up: every run once, labels bounded, text that a Prometheus parser reads."""

import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from codecell import policy
from codecell.errors import BusyError, Denied, RequestError
from codecell.metrics import Metrics
from codecell.model import Captured, Isolation, Outcome, Request, Status, Usage
from codecell.observer import CellEvent, Census, Phase, Run
from codecell.recent import BUCKETS, Recent
from codecell.settings import Settings

SETTINGS = Settings.model_construct()


def run_of(caller: str = "ann", language: str = "python", run_id: str = "r1") -> Run:
    request = Request(language=language, code="secret_code", stdin="secret_input", caller=caller)
    plan = policy.plan(request, SETTINGS)
    return Run(run_id=run_id, request=request, plan=plan, started=time.monotonic())


def outcome_of(run: Run, status: Status = Status.SUCCESS) -> Outcome:
    return Outcome(
        run_id=run.run_id,
        status=status,
        exit_code=0,
        signal=None,
        stdout=Captured(text="secret_output", total_bytes=13),
        stderr=Captured(),
        usage=Usage(wall_s=2.0, cpu_s=0.5, peak_memory_bytes=1000),
        execution_time_s=2.5,
        error_message=None,
        plan=run.plan,
        isolation=Isolation(runtime="runc", image="i", image_digest="sha256:0"),
    )


def scraped(metrics: Metrics) -> dict[str, float]:
    """Return every sample by its name and labels."""
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def play(observer: Metrics | Recent, run: Run, status: Status = Status.SUCCESS) -> None:
    observer.queued(run, lambda: 1)
    observer.admitted(run)
    for phase in (Phase.STARTING, Phase.RUNNING, Phase.COLLECTING):
        observer.phase(run, phase)
    observer.ended(run, outcome_of(run, status))


def test_a_run_is_counted_by_language_and_status_with_what_it_cost() -> None:
    metrics = Metrics()
    play(metrics, run_of())
    play(metrics, run_of(language="bash", run_id="r2"), Status.TIMEOUT)
    found = scraped(metrics)
    assert found["codecell_runs_total{language=python,status=success}"] == 1
    assert found["codecell_runs_total{language=bash,status=timeout}"] == 1
    assert found["codecell_queue_seconds_count{}"] == 2
    assert found["codecell_start_seconds_count{language=python}"] == 1
    assert found["codecell_run_seconds_sum{language=python}"] == 2.0
    assert found["codecell_run_seconds_bucket{language=python,le=2.5}"] == 1
    assert found["codecell_run_seconds_bucket{language=python,le=1.0}"] == 0
    assert found["codecell_cpu_seconds_total{caller=ann}"] == 1.0
    assert found["codecell_memory_byte_seconds_total{caller=ann}"] == 4000.0
    assert found["codecell_runs_in_flight{}"] == found["codecell_runs_queued{}"] == 0


def test_what_waits_and_what_runs_is_told_apart() -> None:
    metrics = Metrics()
    runs = [run_of(run_id=str(number)) for number in range(3)]
    for run in runs:
        metrics.queued(run, lambda: 1)
    metrics.left(runs[0])
    metrics.admitted(runs[1])
    found = scraped(metrics)
    assert (found["codecell_runs_queued{}"], found["codecell_runs_in_flight{}"]) == (1, 1)


def test_refusals_cells_and_the_pool_are_counted() -> None:
    metrics = Metrics()
    metrics.watch_pool(lambda: {"python": Census(ready=2, leased=1, target=4)})
    metrics.refused("ann", None, RequestError("no"))
    metrics.refused("ann", None, BusyError("full", retry_after_s=1))
    metrics.refused("", None, Denied("who?", times=3))
    metrics.trouble("audit", "the disk is full")
    metrics.trouble("audit", None)
    metrics.trouble("audit", "the disk is full")
    metrics.leased("python", None)
    metrics.leased("python", 0.3)
    metrics.cell_created(CellEvent(cell_id="c", language="python", took_s=0.4))
    metrics.cell_discarded(CellEvent(cell_id="c", language="python", reason="idle"))
    found = scraped(metrics)
    assert found["codecell_refusals_total{reason=invalid}"] == 1
    assert found["codecell_refusals_total{reason=busy}"] == 1
    assert found["codecell_refusals_total{reason=denied}"] == 3
    assert found["codecell_troubles_total{part=audit}"] == 2
    assert found["codecell_in_trouble{part=audit}"] == 1
    assert found["codecell_pool_leases_total{language=python,warm=yes}"] == 1
    assert found["codecell_pool_leases_total{language=python,warm=no}"] == 1
    assert found["codecell_cells_created_total{language=python}"] == 1
    assert found["codecell_cells_discarded_total{language=python,reason=idle}"] == 1
    assert found["codecell_pool_cells{language=python,state=ready}"] == 2
    assert found["codecell_pool_cells{language=python,state=leased}"] == 1
    assert found["codecell_pool_target{language=python}"] == 4


def test_callers_beyond_the_bound_share_a_label() -> None:
    metrics = Metrics(max_callers=3)
    for number in range(10):
        play(metrics, run_of(caller=f"caller-{number}", run_id=str(number)))
    play(metrics, run_of(caller='quo"te\n', run_id="q"))
    found = {
        name: value for name, value in scraped(metrics).items() if name.startswith("codecell_cpu")
    }
    labels = {name for name in found if "_total" in name}
    assert len(labels) == 4
    assert found["codecell_cpu_seconds_total{caller=other}"] == 8 * 0.5


def test_no_code_input_or_output_is_in_the_numbers_or_the_summaries() -> None:
    metrics, recent = Metrics(), Recent()
    play(metrics, run_of())
    play(recent, run_of())
    (summary,) = recent.over()
    assert "secret" not in metrics.text().decode()
    assert "secret" not in str(summary.as_json())


# --- the latest runs


def test_a_run_is_in_flight_and_then_over() -> None:
    recent, run = Recent(), run_of()
    recent.queued(run, lambda: 4)
    (waiting,) = recent.in_flight()
    assert (waiting.as_json()["phase"], waiting.as_json()["position"]) == ("queued", 4)
    recent.admitted(run)
    recent.phase(run, Phase.RUNNING)
    assert recent.in_flight()[0].as_json()["phase"] == "running"
    recent.ended(run, outcome_of(run))
    assert recent.in_flight() == []
    (over,) = recent.over()
    assert over.as_json()["status"] == "success"
    assert recent.per_minute() == 1
    assert len(recent.series()) == BUCKETS
    assert sum(recent.series()) == 1


def test_the_latest_are_kept_and_each_callers_own_are_found() -> None:
    recent = Recent(kept=3)
    for number in range(5):
        play(recent, run_of(caller="ann" if number % 2 else "bob", run_id=str(number)))
    assert [run.run_id for run in recent.over()] == ["4", "3", "2"]
    assert [run.run_id for run in recent.over("ann")] == ["3"]
    assert recent.find("3", "ann") is not None
    assert recent.find("3", "bob") is None
    assert recent.find("0", "bob") is None
    assert recent.totals()["runs"] == 5


def test_rates_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    recent = Recent()
    play(recent, run_of())
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 120)
    assert (recent.per_minute(), sum(recent.series())) == (0, 1)
    monkeypatch.setattr(time, "monotonic", lambda: now + 1200)
    assert sum(recent.series()) == 0


def test_a_failure_of_ours_is_counted_apart() -> None:
    recent, run = Recent(), run_of()
    recent.admitted(run)
    recent.ended(run, replace(outcome_of(run), status=Status.SETUP_ERROR))
    assert recent.totals()["failed"] == 1
