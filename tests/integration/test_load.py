"""Many clients at once, for as long as the suite can spare; `make load` has 200 for a minute."""

import json
import subprocess
import sys
from pathlib import Path

import docker
import pytest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.requirement("load:own-result")
def test_every_client_gets_its_own_results_and_nothing_is_left(engine: docker.APIClient) -> None:
    del engine
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--clients", "40", "--seconds", "6"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["lost_or_crossed"] == 0
    assert found["answered"] >= 20
    assert done.returncode == 0
