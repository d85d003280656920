"""The two shapes of an answer to a tool call: a refusal in words, or a result with its text."""

from collections.abc import Sequence

from mcp.types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel


def refusal(text: str) -> CallToolResult:
    """Tell a model what to do instead; nothing was done."""
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def answer(
    result: BaseModel, text: str, shown: Sequence[ContentBlock] = (), *, failed: bool = False
) -> CallToolResult:
    """Give a result as structured content and the same as text, with what is shown."""
    return CallToolResult(
        content=[TextContent(type="text", text=text), *shown],
        structured_content=result.model_dump(mode="json"),
        is_error=failed,
    )
