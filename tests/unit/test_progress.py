"""What a waiting caller reads: true, short, harmless, and always a little more than before."""

import time

import pytest

from codecell import policy
from codecell.model import Request
from codecell.observer import Phase, Run
from codecell.progress import LINE_CHARS, Progress, shown
from codecell.settings import Settings

SETTINGS = Settings.model_construct()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def begun(
    language: str = "python", timeout_s: float = 30, phase: Phase = Phase.RUNNING
) -> tuple[Progress, Clock]:
    clock = Clock()
    progress = Progress(clock)
    request = Request(language=language, code="class Main {}", timeout_s=timeout_s)
    plan = policy.plan(request, SETTINGS)
    progress.planned(Run(run_id="r", request=request, plan=plan, started=time.monotonic()))
    progress.phase(phase)
    return progress, clock


def newest(progress: Progress) -> str:
    return progress.report()[2].partition(": ")[2]


def test_every_phase_has_its_words() -> None:
    clock = Clock()
    progress = Progress(clock)
    assert progress.report()[2] == "queued"
    positions = iter([3, 1, 0])
    progress.queued(lambda: next(positions))
    assert [progress.report()[2] for _ in range(3)] == [
        "queued at position 3", "queued at position 1", "queued",
    ]  # fmt: skip
    progress.phase(Phase.STARTING)
    assert progress.report()[2] == "starting a sandbox"
    progress.phase(Phase.COLLECTING)
    assert progress.report()[2] == "collecting the results"


def test_a_phase_with_a_limit_tells_how_much_of_it_is_gone() -> None:
    progress, clock = begun("java", 20, Phase.COMPILING)
    clock.now += 3
    assert progress.report() == (3.0, 60.0, "compiling 3 s of 60 s")
    progress.output("stderr", b"warning: old\n")
    assert newest(progress) == "warning: old"
    progress.phase(Phase.RUNNING)
    clock.now += 12
    progress.output("stdout", b"half\nwhole\nrest")
    assert progress.report() == (15.0, 23.0, "running 12 s of 20 s: whole")


def test_progress_rises_even_when_the_clock_does_not_and_past_the_limit() -> None:
    progress, clock = begun(timeout_s=1)
    values = [progress.report()[0] for _ in range(3)]
    assert values == sorted(set(values))
    clock.now += 2
    value, total, _ = progress.report()
    assert value > values[-1]
    assert total is None  # never a total below the progress


@pytest.mark.parametrize(
    ("pieces", "line"),
    [
        ([b"no end"], ""),
        ([b"one\n"], "one"),
        ([b"one\ntwo\nthr"], "two"),
        ([b"on", b"e\n"], "one"),
        ([b"one\nt", b"w", b"o\n"], "two"),
        ([b"one", b"\n"], "one"),
        ([b"one\n", b"\n\n  \n"], "one"),
        ([b"one\n\n \n"], "one"),
        ([b"one", b"\ntwo\n"], "two"),
        ([b" 10%\r", b" 20%\r 3"], "20%"),
        ([b"x" * 5000, b"y\n"], "x" * (LINE_CHARS - 3) + "..."),
        ([b"\xe6\xbc", b"\xa2\n"], "漢"),
        ([b"\xff\n"], "\ufffd"),
        ([b"\x1b]0;title\x07\x1b[31mred\n"], "␛]0;title␇␛[31mred"),
        (["\u202egnp.exe\n".encode()], "<U+202E>gnp.exe"),
    ],
)
def test_the_newest_complete_line_is_shown(pieces: list[bytes], line: str) -> None:
    progress, _ = begun()
    for piece in pieces:
        progress.output("stdout", piece)
    assert newest(progress) == line


def test_streams_are_not_mixed_up() -> None:
    progress, _ = begun()
    progress.output("stdout", b"half of ")
    progress.output("stderr", b"error\n")
    assert newest(progress) == "error"
    progress.output("stdout", b"a line\n")
    assert newest(progress) == "half of a line"


def test_a_flood_costs_little_memory_and_a_short_message() -> None:
    progress, _ = begun()
    for _ in range(1000):
        progress.output("stdout", b"x" * 65536)
    progress.output("stdout", b"\n")
    assert len(progress.report()[2]) < LINE_CHARS + 40


def test_what_is_shown_is_one_line_within_its_bound() -> None:
    everything = bytes(range(256)) * 8
    text = shown(everything)
    assert len(text) <= LINE_CHARS
    assert not any(ord(character) < 32 for character in text.replace("\n", ""))
