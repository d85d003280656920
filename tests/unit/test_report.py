"""An agent's report becomes facts only where every field is what it should be."""

import json
from typing import Any

import pytest

from codecell.backends.fake import leave
from codecell.errors import ProtocolError
from codecell.model import Ending, Facts, Usage
from codecell.report import facts_from

SOUND: dict[str, Any] = json.loads(leave().payload)


def test_a_sound_report_becomes_facts() -> None:
    report = SOUND | {"code": None, "signal": 11, "oom_kills": 2, "stderr_bytes": 5}
    assert facts_from(report) == Facts(
        ending=Ending.EXITED,
        signal=11,
        oom_kills=2,
        usage=Usage(wall_s=0.25, cpu_s=0.125, peak_memory_bytes=1024),
        stderr_bytes=5,
    )


def test_fields_that_nobody_knows_are_ignored() -> None:
    assert facts_from(SOUND | {"later": 1}) == facts_from(SOUND)


@pytest.mark.parametrize("field", sorted(set(SOUND) - {"failure"}))
def test_a_missing_field_is_refused(field: str) -> None:
    with pytest.raises(ProtocolError, match="report is malformed"):
        facts_from({key: value for key, value in SOUND.items() if key != field})


WHOLE = ["1", 1.0, True, -1, 2**70, [], {}, float("nan")]
DURATION: list[object] = ["1", None, True, -0.1, float("nan"), float("inf"), [], 10**400]
BAD: dict[str, list[object]] = {
    "ending": ["success", "", None, 1, [], {}, "EXITED"],
    "code": [*WHOLE, 256, None],
    "signal": [*WHOLE, 65, None],
    "oom_kills": WHOLE,
    "peak_memory_bytes": [*WHOLE, None],
    "stdout_bytes": [*WHOLE, None],
    "stderr_bytes": [*WHOLE, None],
    "wall_s": DURATION,
    "cpu_s": DURATION,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD.items() for value in values],
    ids=lambda value: repr(value)[:24],
)
def test_a_malformed_field_is_refused(field: str, value: object) -> None:
    report = SOUND | {"code": None} if field == "signal" else SOUND
    with pytest.raises(ProtocolError, match="report is malformed"):
        facts_from(report | {field: value})


def test_an_exit_code_beside_a_signal_is_refused() -> None:
    with pytest.raises(ProtocolError, match="either an exit code or a signal"):
        facts_from(SOUND | {"code": 0, "signal": 9})
