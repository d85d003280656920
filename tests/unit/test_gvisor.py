"""What is written into the engine's configuration when gVisor is registered."""

import json

import pytest

from codecell.backends.docker.gvisor import with_gvisor
from codecell.backends.docker.runtimes import read_runtimes
from codecell.errors import ConfigurationError


@pytest.mark.parametrize("text", ["", "\n", "{}", '{"debug": true}'])
def test_gvisor_is_added_and_the_rest_stays(text: str) -> None:
    config = json.loads(with_gvisor(text))
    runtime = read_runtimes({"Runtimes": config.pop("runtimes")})["runsc"]
    assert (runtime.agent_apart, runtime.filters) == (True, True)
    assert config == (json.loads(text) if text.strip() else {})


def test_other_runtimes_stay() -> None:
    other = {"kata": {"path": "/usr/bin/kata-runtime"}}
    config = json.loads(with_gvisor(json.dumps({"runtimes": other})))
    assert set(config["runtimes"]) == {"kata", "runsc"}
    assert config["runtimes"]["kata"] == other["kata"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not an object"),
        ('{"runtimes": []}', "is not an object"),
        ('{"runtimes": {"runsc": {"path": "/opt/runsc"}}}', "has a runtime runsc already"),
    ],
)
def test_a_configuration_that_is_not_understood_is_left_alone(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        with_gvisor(text)
