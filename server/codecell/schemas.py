"""Write the published tool definitions to files: `python -m codecell.schemas tool_schemas`.

The files show the tools as `tools/list` publishes them with the default settings; a test compares.
"""

import json
import sys
from pathlib import Path

from codecell.settings import Settings
from codecell.tools import tool_definitions


def documents() -> dict[str, str]:
    """Return file name -> content, one per tool."""
    # Constructed, not validated: no environment variable may reach a file that is compared.
    return {
        f"{tool.name}.json": json.dumps(
            tool.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2
        )
        + "\n"
        for tool in tool_definitions(Settings.model_construct())
    }


def write(folder: Path) -> None:
    """Write every document into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in documents().items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m codecell.schemas FOLDER")
    write(Path(sys.argv[1]))
