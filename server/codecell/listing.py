"""What a run did to files, as lines of text and within its share of a result; pure."""

from collections.abc import Iterable
from typing import Any

from pydantic_core import to_json

from codecell.model import Why
from codecell.visible import harmless, json_size, size
from codecell.wire import FilesOutput, OmittedOutput

MAX_FILES_BYTES = 200_000  # the lists of files, in both forms
FEW_FILES = 9  # of which even the longest names fit


def file_facts(files: FilesOutput) -> Iterable[str]:
    """Yield one line for each file that the run changed; nothing where it changed none."""
    for change, found in (("created", files.created), ("modified", files.modified)):
        for file in found:
            path = _line(file.path)
            yield f"{change}: {path} ({size(file.size)}, {file.mime_type}) {file.uri}"
    for path in files.deleted:
        yield f"deleted: {_line(path)}"
    for item in files.omitted:
        what = f"{item.count or 'some'} files" if item.path is None else _line(item.path)
        line = f"left out: {what}: {item.reason.value}"
        if item.target is not None:
            line += f" to {_line(item.target)}"
        if item.size is not None and item.reason is Why.TOO_LARGE:
            line += f" ({size(item.size)})"
        yield line


def _line(text: str) -> str:
    """Make a program's own name harmless within a line."""
    return harmless(text).replace("\n", "\u240a").replace("\t", "\u2409")


def fit_files(files: FilesOutput) -> FilesOutput:
    """Cut the lists of files to their share; what is cut can be read still, and is counted."""
    lists: dict[str, list[Any]] = {name: list(getattr(files, name)) for name, _ in files}
    if sum(map(len, lists.values())) < FEW_FILES:
        return files
    cut = 0
    while _files_cost(files) > MAX_FILES_BYTES:
        longest = max(lists.values(), key=len)
        drop = max(1, len(longest) // 8)
        cut += drop
        del longest[-drop:]
        note = OmittedOutput(
            path=None, change=None, reason=Why.NOT_LISTED, size=None, target=None, count=cut
        )
        files = FilesOutput(**{**lists, "omitted": [*lists["omitted"], note]})
    return files


def _files_cost(files: FilesOutput) -> int:
    text = to_json("\n".join(file_facts(files))).decode()
    return json_size(files.model_dump_json()) + json_size(text)
