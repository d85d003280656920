"""Nothing is decided by the time of day, which can jump; it is only told."""

import re
from importlib import resources
from pathlib import Path

import pytest

WALL = re.compile(
    r"\btime\.time(_ns)?\(|\bdatetime\.(now|utcnow|today)\(|\btime\.(gmtime|localtime)\("
)
TOLD = {
    "audit/writer.py": "the time in each line of the log, whose order is the chain's",
    "recent.py": "when a run began, for people",
    "traces.py": "when a span began, as OpenTelemetry wants it",
    "otlp.py": "when a number was measured, as OpenTelemetry wants it",
    "http/tokens.py": "when a token was made, for people",
    "attack/gate.py": "how long an earlier start's verdict holds; a jump backwards ends it",
    "store.py": "whether a directory without a lock is fresh; it has none for an instant only",
}


@pytest.mark.requirement("clean:clock")
def test_the_time_of_day_is_read_where_it_is_told_and_nowhere_else() -> None:
    root = Path(str(resources.files("codecell")))
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    found = {name for name, path in files.items() if WALL.search(path.read_text("utf-8"))}
    assert found == set(TOLD)
