"""MCP_TOOL_SPECIFICATION.md is true: its examples run, its tables name what there is."""

import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import docker
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import TextContent

from codecell.model import Status
from codecell.wire import ExecuteCodeInput, ExecuteCodeOutput, LanguageOutput, LimitsOutput

TEXT = (Path(__file__).parents[2] / "MCP_TOOL_SPECIFICATION.md").read_text(encoding="utf-8")
BLOCKS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
PAIRS = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))


def section(title: str) -> str:
    return re.split(r"^#+ ", TEXT.partition(f"# {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def first_column(title: str) -> list[str]:
    rows = re.findall(r"^\| (`[^|]*) \|", section(title), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.fixture(scope="module")
async def client(engine: docker.APIClient) -> AsyncIterator[Client]:
    del engine  # its absence is what the fixture reports
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "codecell", "serve"], env=dict(os.environ)
    )
    async with Client(server) as connected:
        yield connected


def assert_contains(actual: Any, expected: Any, where: str = "result") -> None:
    """Check that `expected` is part of `actual`: objects by their fields, the rest by value."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in actual, f"{where} has no {key}"
            assert_contains(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        # further languages may be installed
        assert len(actual) == len(expected) or where.endswith(".languages"), where
        for index, (one, other) in enumerate(zip(actual, expected, strict=False)):
            assert_contains(one, other, f"{where}[{index}]")
    else:
        assert actual == expected, where


@pytest.mark.docker
@pytest.mark.anyio
@pytest.mark.parametrize(("call", "expected"), PAIRS)
async def test_an_example(client: Client, call: dict[str, Any], expected: dict[str, Any]) -> None:
    with anyio.fail_after(60):
        try:
            answer = await client.call_tool(call["name"], call["arguments"])
        except MCPError as error:
            assert_contains({"error": {"code": error.error.code}}, expected)
            return
    block, *_ = answer.content
    assert isinstance(block, TextContent)
    shown = {**answer.model_dump(mode="json", by_alias=True), "text": block.text}
    if "text" in expected:
        shown["text"] = block.text[: len(expected["text"])]
    assert_contains(shown, expected)


def test_there_are_examples() -> None:
    assert len(PAIRS) >= 10
    assert len(BLOCKS) == TEXT.count("```json")


def test_the_arguments_are_those_of_the_model() -> None:
    assert first_column("Arguments") == list(ExecuteCodeInput.model_fields)


def test_the_result_fields_are_those_of_the_model() -> None:
    assert sorted(first_column("Result")) == sorted(ExecuteCodeOutput.model_fields)
    assert all(f"`{name}`" in section("Result") for name in LimitsOutput.model_fields)


def test_the_statuses_are_those_of_the_model() -> None:
    assert first_column("Status") == [status.value for status in Status]


def test_the_language_fields_are_those_of_the_model() -> None:
    assert all(f"`{name}`" in section("`list_languages`") for name in LanguageOutput.model_fields)
