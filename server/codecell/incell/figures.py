"""Matplotlib's figures as pictures; to matplotlib this module is its backend, `codecell_figures`.

`plt.show()` shows every open figure and closes it, as in a notebook; so does the end of a program
with those that are still open. The drawing is Agg's.
"""

from __future__ import annotations

import sys

from codecell.incell.lazy import LOADED, module
from codecell.incell.modules import MODULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "codecell_figures"
VALUES, quietly = module("values").VALUES, module("values").quietly
MOST = 20  # figures shown at the end without being asked for


def choose(matplotlib: Any, chosen: str | None) -> None:
    """Make this the backend of a matplotlib that was just imported, unless another is chosen."""
    MODULES.stash[NAME] = LOADED[__name__]
    MODULES.after[NAME] = _complete
    matplotlib.rcParams["backend"] = chosen or f"module://{NAME}"


def _complete(_: object) -> None:
    """Have the canvas, now that matplotlib wants its backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    globals()["FigureCanvas"] = FigureCanvasAgg


def show(*_: object, **__: object) -> None:
    """Show every open figure, in the order of their numbers, and close them."""
    helpers = sys.modules["matplotlib._pylab_helpers"]
    for manager in _managers(helpers):
        _show(manager.canvas.figure)
    helpers.Gcf.destroy_all()


def show_open() -> None:
    """Show at the end of a program what it left open; of that nothing else is seen."""
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is None:
        return
    for manager in _managers(helpers)[:MOST]:
        figure = manager.canvas.figure
        if id(figure) not in VALUES.seen:
            quietly(lambda figure=figure: _show(figure))


def end_step() -> None:
    """Show at the end of a session's step what it left open, and close it, as a notebook does."""
    show_open()
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None:
        quietly(helpers.Gcf.destroy_all)


def _managers(helpers: Any) -> list[Any]:
    return sorted(helpers.Gcf.figs.values(), key=lambda manager: manager.num)


def _show(figure: Any) -> None:
    VALUES.image("image/png", png(figure), repr(figure))


def png(figure: Any) -> bytes:
    """Draw a figure, cut to what is on it."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if not hasattr(figure.canvas, "print_png"):
        FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi, bbox_inches="tight")
    return file.getvalue()
