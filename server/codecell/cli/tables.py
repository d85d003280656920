"""Tables on stdout."""

from collections.abc import Sequence


def plain(text: str) -> str:
    """Keep rich from reading markup in a text."""
    from rich.markup import escape

    return escape(text)


def show(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; where stdout is no terminal, without folding to 80 columns."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    grid = Table(*heads, box=SIMPLE, pad_edge=False)
    for row in rows:
        grid.add_row(*row)
    console.print(grid)
