"""Files as MCP clients send and get them: the SDK's client, a real server, real cells."""

import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import docker
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import (
    INVALID_PARAMS,
    BlobResourceContents,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

PICTURE = """
import struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
rows = b"".join(b"\\0" + bytes((x * 2, y * 2, 128)[i] for x in range(100) for i in range(3)) for y in range(100))
png = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 2, 0, 0, 0))
png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
open("plot.png", "wb").write(png)
"""  # noqa: E501  a program


@pytest.fixture(scope="module", params=["auto", "legacy"])
async def client(engine: docker.APIClient, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """A client of one server for the whole module, in each protocol era."""
    del engine
    env = {**os.environ, "CODECELL_POOL__LANGUAGES": '["python"]', "CODECELL_POOL__MIN": "1"}
    command = [sys.executable, "-m", "codecell", "serve"]
    server = StdioServerParameters(command=command[0], args=command[1:], env=env)
    async with Client(server, mode=request.param) as connected:
        yield connected


async def call(client: Client, **arguments: Any) -> tuple[dict[str, Any], list[Any]]:
    answer = await client.call_tool("execute_code", {"language": "python", **arguments})
    assert answer.structured_content, answer.content
    assert isinstance(answer.content[0], TextContent)
    return answer.structured_content, answer.content[1:]


async def refusal(client: Client, **arguments: Any) -> str:
    answer = await client.call_tool("execute_code", {"language": "python", **arguments})
    assert answer.is_error
    assert answer.structured_content is None
    assert isinstance(answer.content[0], TextContent)
    return answer.content[0].text


async def read(client: Client, uri: str) -> Any:
    (contents,) = (await client.read_resource(uri)).contents
    return contents


async def test_an_image_comes_as_an_image_and_a_text_as_text(client: Client) -> None:
    code = PICTURE + "open('notes.md', 'w').write('# é\\n')\nopen('raw', 'wb').write(bytes(9))"
    result, (notes, image, raw) = await call(client, code=code)
    created = {file["path"]: file for file in result["files"]["created"]}
    assert isinstance(image, ImageContent)
    data = base64.b64decode(image.data)
    assert (image.mime_type, data[:8]) == ("image/png", b"\x89PNG\r\n\x1a\n")
    assert hashlib.sha256(data).hexdigest() == created["plot.png"]["sha256"]
    assert isinstance(notes, EmbeddedResource)
    assert isinstance(notes.resource, TextResourceContents)
    assert (notes.resource.mime_type, notes.resource.text) == ("text/markdown", "# é\n")
    assert isinstance(raw, ResourceLink)
    assert (raw.name, raw.size, raw.uri) == ("raw", 9, created["raw"]["uri"])
    assert created["raw"]["mime_type"] == "application/octet-stream"
    assert image.data[:40] not in str(result)
    blob = await read(client, raw.uri)
    assert isinstance(blob, BlobResourceContents)
    assert base64.b64decode(blob.blob) == bytes(9)


async def test_what_only_says_that_it_is_harmless_is_neither_shown_nor_quoted(
    client: Client,
) -> None:
    code = (
        "open('fake.png', 'w').write('<script>')\n"
        "open('tricky.txt', 'w').write('a\\x1b[2J\\u202eb')\n"
        "open('cut.txt', 'wb').write(b'ok\\xff')"
    )
    result, blocks = await call(client, code=code)
    assert [type(block) for block in blocks] == [ResourceLink] * 3
    types = {file["path"]: file["mime_type"] for file in result["files"]["created"]}
    assert types["fake.png"] == "application/octet-stream"
    tricky = next(file for file in result["files"]["created"] if file["path"] == "tricky.txt")
    assert (await read(client, tricky["uri"])).text == "a\x1b[2J\u202eb"


@pytest.mark.requirement("store:ranges")
async def test_files_are_listed_read_in_parts_and_described(client: Client) -> None:
    result, _ = await call(client, code="open('big.txt', 'w').write('0123456789' * 200_000)")
    (big,) = result["files"]["created"]
    listed: list[Any] = []
    cursor = None
    while True:
        page = await client.list_resources(cursor=cursor)
        listed += page.resources
        if (cursor := page.next_cursor) is None:
            break
    assert (big["uri"], big["size"]) in [(item.uri, item.size) for item in listed]
    with pytest.raises(MCPError, match=r"read it in parts, such as .*\?offset=0&length="):
        await read(client, big["uri"])
    assert (await read(client, big["uri"] + "?offset=3&length=4")).text == "3456"
    assert (await read(client, big["uri"] + "?offset=1999999")).text == "9"
    assert (await read(client, big["uri"] + "?offset=9999999&length=9")).text == ""
    for query in ("?length=-1", "?offset=x", "?other=1"):
        with pytest.raises(MCPError, match="offset=N&length=N"):
            await read(client, big["uri"] + query)
    templates = (await client.list_resource_templates()).resource_templates
    assert templates[0].uri_template == "codecell://runs/{run_id}/files/{+path}{?offset,length}"


async def test_a_run_and_the_posture_can_be_looked_up(client: Client) -> None:
    result, _ = await call(client, code="raise SystemExit(3)")
    run = json.loads((await read(client, f"codecell://runs/{result['run_id']}")).text)
    assert (run["run_id"], run["phase"]) == (result["run_id"], "ended")
    assert (run["status"], run["exit_code"]) == ("execution_error", 3)
    held = json.loads((await read(client, "codecell://posture")).text)
    assert (held["network"], held["no_new_privileges"]) == ("none", True)
    assert held["limits"]["timeout_s"] == result["limits"]["timeout_s"]


@pytest.mark.requirement("store:caller")
@pytest.mark.parametrize(
    "uri",
    ["codecell://runs/0/files/x", "file:///etc/passwd", "codecell://", "codecell://runs/../x"],
)
async def test_what_is_not_there_is_not_found(client: Client, uri: str) -> None:
    with pytest.raises(MCPError, match="not found") as caught:
        await read(client, uri)
    assert caught.value.error.code == INVALID_PARAMS
    with pytest.raises(MCPError, match="cursor"):
        await client.list_resources(cursor="nonsense")


async def test_files_come_in_as_text_as_bytes_and_by_reference(client: Client) -> None:
    code = "print(open('t').read(), open('d/b', 'rb').read()); open('out', 'w').write('kept')"
    files = [
        {"path": "t", "content": "é"},
        {"path": "d/b", "content_base64": base64.b64encode(b"\0\xff").decode()},
    ]
    result, _ = await call(client, code=code, files=files)
    assert result["stdout"] == "é b'\\x00\\xff'\n"
    (out,) = result["files"]["created"]
    again, _ = await call(
        client,
        files=[
            {"path": "main.py", "content": "print(open('in').read())"},
            {"path": "in", "uri": out["uri"]},
        ],
    )
    assert again["stdout"] == "kept\n"


@pytest.mark.requirement("file:paths")
@pytest.mark.requirement("file:bounds-in")
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([{"path": "../x", "content": ""}], "files[0].path '../x' contains '..'"),
        ([{"path": "a\0b", "content": ""}], "files[0].path 'a\\x00b' contains a NUL"),
        ([{"path": "a"}], "files[0] must have one of content, content_base64, uri, not none"),
        ([{"path": "a", "content": "", "uri": "u"}], "not content and uri"),
        ([{"path": "a", "content_base64": "?"}], "files[0].content_base64 is not base64"),
        ([{"path": "a", "uri": "codecell://runs/1/x"}], "files[0].uri 'codecell://runs/1/x' does"),
        ([{"path": 1, "content": ""}], "files[0].path must be a string"),
        ([{"content": ""}], "files[0].path is required and must be a string"),
        ([{"path": "a", "content": "", "mode": 1}], 'files[0] has the unknown field "mode"'),
        ("x", "files must be an array of objects"),
        (["x"], "files[0] must be an object with path and content, not a string"),
        ([{"path": f"f{n}", "content": ""} for n in range(201)], "files has 201 entries"),
    ],
)
async def test_bad_files_are_refused_by_name(client: Client, files: Any, words: str) -> None:
    text = await refusal(client, code="print(1)", files=files)
    assert words in text
    assert len(text.splitlines()) == 1


async def test_ten_megabytes_in_and_out_by_reference(client: Client) -> None:
    data = hashlib.sha256(b"x").digest() * (10 * 2**20 // 32)
    files = [{"path": "in", "content_base64": base64.b64encode(data).decode()}]
    started = time.monotonic()
    result, _ = await call(client, code="import shutil; shutil.copyfile('in', 'out')", files=files)
    taken = time.monotonic() - started
    (out,) = result["files"]["created"]
    assert out["sha256"] == hashlib.sha256(data).hexdigest()
    assert taken < 8  # a second, on a machine with nothing else to do
    print(f"10 MB in and out: {taken:.2f} s")  # noqa: T201
