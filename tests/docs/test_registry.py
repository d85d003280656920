"""server.json says what the MCP registry asks for, and says it of this version.

The registry's own schema is not kept here (it names package indexes): what follows holds the rules
of 2025-12-11 for the parts that server.json uses, and knows no other parts.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from codecell import __version__
from codecell.cli import COMMANDS
from codecell.settings import rows

ROOT = Path(__file__).resolve().parents[2]
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """Describe an object that has no other properties than these."""
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


TEXT = {"type": "string"}
VERSION = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^\d+\.\d+\.\d+$"}
VALUE = {
    "description": TEXT,
    "default": TEXT,
    "placeholder": TEXT,
    "format": {"enum": ["string", "number", "boolean", "filepath"]},
}
POSITIONAL = closed("type value", type={"const": "positional"}, value=TEXT)
PACKAGE = closed(
    "registryType identifier version transport",
    registryType={"enum": ["npm", "pypi", "oci", "nuget", "mcpb"]},
    identifier=TEXT,
    version=VERSION,
    runtimeHint=TEXT,
    transport=closed("type", type={"const": "stdio"}),
    packageArguments={"type": "array", "items": POSITIONAL},
    environmentVariables={"type": "array", "items": closed("name", name=TEXT, **VALUE)},
)
RULES = closed(
    "$schema name description version",
    **{"$schema": {"const": SCHEMA}},
    name={"type": "string", "maxLength": 200, "pattern": r"^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$"},
    title={"type": "string", "minLength": 1, "maxLength": 100},
    description={"type": "string", "minLength": 1, "maxLength": 100},
    version=VERSION,
    packages={"type": "array", "minItems": 1, "items": PACKAGE},
)


def test_it_keeps_the_registrys_rules() -> None:
    jsonschema.validate(SERVER, RULES)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "codecell"},
        {"description": "x" * 101},
        {"version": "latest"},
        {"packages": [{"registryType": "pypi", "identifier": "codecell"}]},
        {"repository": "unknown"},
    ],
)
def test_what_breaks_a_rule_is_found(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SERVER | change, RULES)


def test_its_versions_are_the_packages() -> None:
    assert [SERVER["version"], *(p["version"] for p in SERVER["packages"])] == [__version__] * 2


def test_the_package_and_the_image_say_whose_they_are() -> None:
    """The registry looks for the name in a package's README and in an image's label."""
    name = SERVER["name"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"<!-- mcp-name: (\S+) -->", readme) == [name]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f'LABEL io.modelcontextprotocol.server.name="{name}"' in dockerfile.splitlines()


def test_what_it_starts_exists_and_what_it_sets_is_a_setting() -> None:
    (package,) = SERVER["packages"]
    assert [argument["value"] for argument in package["packageArguments"]] == ["serve"]
    assert "serve" in COMMANDS
    defaults = {"CODECELL_" + key.upper().replace(".", "__"): default for key, default, _ in rows()}
    for variable in package["environmentVariables"]:
        if variable["name"] != "DOCKER_HOST":
            assert variable.get("default", "(none)") == defaults[variable["name"]]
