"""Resources over MCP: stored results, facts about runs and posture, the blocks beside a result.

What is small enough to look at comes with the result itself: images as image content, texts as
embedded text. A text is only embedded if it can be shown as it is; one with control or bidi
characters comes by reference, like everything else. `resources/read` gives the exact bytes.
"""

import base64
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.types import (
    INVALID_PARAMS,
    BlobResourceContents,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceLink,
    ResourceTemplate,
    TextResourceContents,
)
from pydantic_core import to_json

from codecell.callers import Caller, Scope
from codecell.errors import Denied, ResourceNotFound
from codecell.files import image_type
from codecell.model import ChangedFile
from codecell.observer import Observers
from codecell.settings import FileSettings
from codecell.store import Item, Store
from codecell.visible import harmless, json_size

Context = ServerRequestContext[Any]
# What the server knows under an address, for a caller by name; None where it knows nothing.
Facts = Callable[[str, str], dict[str, object] | None]

PAGE = 100
READ_BYTES = 600_000  # base64 makes 800,000 of it; clients refuse an event of more than 1 MiB
TEXT_BYTES = 800_000  # of a text as JSON
BLOCKS_BYTES = 420_000  # all blocks beside a result together
LINKS = 20  # more than that are in the structured result only
_TEXTUAL = ("text/", "application/json", "application/xml", "application/jsonl", "image/svg+xml")


class Resources:
    """The handlers, for one store and what is known beside it."""

    def __init__(
        self,
        store: Store,
        caller_of: Callable[[Context], Caller],
        facts: Facts,
        observers: Observers,
    ) -> None:
        self._observers = observers
        self._store = store
        self._caller_of = caller_of
        self._facts = facts

    async def listing(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        """List the caller's own results, oldest first."""
        cursor = params.cursor if params is not None else None
        if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
            raise MCPError(INVALID_PARAMS, "cursor must be one that resources/list has returned")
        after = int(cursor[:18]) if cursor else 0
        found: list[Item] = []
        for item in self._store.items(self._reader(context).name, after):
            if len(found) == PAGE:
                return ListResourcesResult(
                    resources=[_resource(item) for item in found],
                    next_cursor=str(found[-1].number),
                )
            found.append(item)
        return ListResourcesResult(resources=[_resource(item) for item in found])

    async def templates(
        self, _: Context, __: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        """Tell what addresses look like."""
        return ListResourceTemplatesResult(
            resource_templates=[
                ResourceTemplate(
                    name="file",
                    title="File that a run made",
                    uri_template="codecell://runs/{run_id}/files/{+path}{?offset,length}",
                    description="A file that execute_code returned, until it expires; offset and "
                    "length (in bytes) read a part of it.",
                ),
                ResourceTemplate(
                    name="output",
                    title="Output of a run",
                    uri_template="codecell://runs/{run_id}/{stream}{?offset,length}",
                    description="stdout or stderr of a run whose result had only a part of it.",
                ),
                ResourceTemplate(
                    name="run",
                    title="Run in short",
                    uri_template="codecell://runs/{run_id}",
                    description="Phase, status and usage of one of the caller's latest runs.",
                    mime_type="application/json",
                ),
                ResourceTemplate(
                    name="posture",
                    title="Confinement in force",
                    uri_template="codecell://posture",
                    description="Policy, limits and walls that hold the caller's runs.",
                    mime_type="application/json",
                ),
            ]
        )

    async def read(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        """Return a result, or the range of it that the address asks for, or facts as JSON."""
        caller = self._reader(context)
        address, _, query = params.uri.partition("?")
        if (facts := self._facts(params.uri, caller.name)) is not None:
            shown = to_json(facts, indent=2).decode()
            return ReadResourceResult(
                contents=[
                    TextResourceContents(uri=params.uri, mime_type="application/json", text=shown)
                ]
            )
        try:
            item = self._store.find(address, caller.name)
            offset, length = _range(query, item)
            if length > READ_BYTES:
                raise MCPError(
                    INVALID_PARAMS,
                    f"{length:,} bytes are more than one answer holds ({READ_BYTES:,}): read it in "
                    f"parts, such as {item.uri}?offset=0&length={READ_BYTES}",
                )
            data = self._store.read(item, offset, length)
        except ResourceNotFound as error:
            raise MCPError(
                INVALID_PARAMS, f"Resource not found: {error}", {"uri": params.uri}
            ) from error
        return ReadResourceResult(contents=[_contents(params.uri, item, data)])

    def blocks(
        self, caller: str, files: Iterable[ChangedFile], limits: FileSettings, room: int
    ) -> tuple[list[ContentBlock], int]:
        """Return what is shown beside a result: images, short texts, and links to the rest.

        And how many bytes of the wire all of it takes.

        Args:
            caller: whose the files are.
            files: in the order in which they are to be shown.
            limits: how large an image or a text may be.
            room: bytes that all of it may take.
        """
        left, links = room, 0
        found: list[ContentBlock] = []
        for file in files:
            if file.uri is None:
                continue
            block = self._shown(caller, file, limits)
            size = block_bytes(block) if block is not None else 0
            if block is None or size > left:
                if links == LINKS:
                    continue
                block, links = _link(file), links + 1
                size = block_bytes(block)
            if size <= left:
                left -= size
                found.append(block)
        return found, room - left

    def _shown(self, caller: str, file: ChangedFile, limits: FileSettings) -> ContentBlock | None:
        image = (file.mime or "").startswith("image/") and file.size is not None
        most = int(limits.image if image else limits.text)
        textual = (file.mime or "").startswith(_TEXTUAL)
        if file.uri is None or (file.size or 0) > most or not (image or textual):
            return None
        try:
            data = self._store.read(self._store.find(file.uri, caller))
        except ResourceNotFound:
            return None  # its room was needed already
        if (mime := image_type(data)) is not None:
            return ImageContent(
                type="image",
                data=base64.b64encode(data).decode(),
                mime_type=mime,
                _meta={"codecell/path": file.path, "codecell/uri": file.uri},
            )
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        if not textual or harmless(text) != text:
            return None
        return EmbeddedResource(
            type="resource",
            resource=TextResourceContents(uri=file.uri, mime_type=file.mime, text=text),
        )

    def _reader(self, context: Context) -> Caller:
        caller = self._caller_of(context)
        try:
            caller.require(Scope.READ)
        except Denied as error:
            self._observers.refused(caller.name, None, error)
            raise MCPError(INVALID_PARAMS, str(error)) from error
        return caller


def _range(query: str, item: Item) -> tuple[int, int]:
    """Read offset and length from an address; by default all of it.

    Raises:
        MCPError: it asks for something else.
    """
    values = {"offset": 0, "length": -1}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in values or not (value.isascii() and value.isdigit()) or len(value) > 18:
            raise MCPError(
                INVALID_PARAMS,
                "a uri may end in ?offset=N&length=N, in whole bytes, and in nothing else",
            )
        values[name] = int(value)
    offset = min(values["offset"], item.size)
    rest = item.size - offset
    return offset, rest if values["length"] < 0 else min(values["length"], rest)


def _contents(uri: str, item: Item, data: bytes) -> TextResourceContents | BlobResourceContents:
    if item.mime.startswith(_TEXTUAL):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            pass  # not a text after all, or a range that cuts a character
        else:
            if json_size(to_json(text).decode()) <= TEXT_BYTES:
                return TextResourceContents(uri=uri, mime_type=item.mime, text=text)
    blob = base64.b64encode(data).decode()
    return BlobResourceContents(uri=uri, mime_type=item.mime, blob=blob)


def _resource(item: Item) -> Resource:
    return Resource(
        name=item.name.removeprefix("files/"), uri=item.uri, mime_type=item.mime, size=item.size
    )


def _link(file: ChangedFile) -> ResourceLink:
    return ResourceLink(
        type="resource_link",
        name=file.path,
        uri=file.uri or "",
        mime_type=file.mime,
        size=file.size,
    )


def block_bytes(block: ContentBlock) -> int:
    """Return what a block takes on the wire."""
    return json_size(block.model_dump_json(by_alias=True)) + 1
