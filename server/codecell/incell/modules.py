"""Modules imported ahead of time, which the program does not see before it imports them.

The first module of the agent, and without a future import: what is in `sys.modules` when this one
begins is what a fresh interpreter has.
"""

import builtins
import sys
from posix import listdir as _listdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType
    from typing import Any

# `-c`, by which we come, brings linecache along.
FRESH = frozenset(sys.modules) - {"linecache", __name__}

# What the agent imports itself; loaded here first, so that `edges` knows of it all.
OWN = (
    "_ctypes", "atexit", "gc", "importlib.machinery", "resource", "select", "struct", "time",
)  # fmt: skip

# Heavy, and what many programs begin with: with re, enum, functools, collections.
USUAL = ("json", "signal")


class Modules:
    """What was imported ahead of time, and which of it an import brings into `sys.modules`.

    `edges` notes which module asked for which, so that an import restores just what it would have
    loaded: a program can't tell from `sys.modules` that anything was prepared.
    """

    def __init__(self) -> None:
        self.edges: "dict[str, set[str]]" = {}
        self.stash: "dict[str, ModuleType]" = {}
        self.prepared: "set[str]" = set()
        self.shown = 0  # how many are in `sys.modules`
        # What is done once with a module that a program has imported.
        self.after: "dict[str, Callable[[ModuleType], None]]" = {}

    def load(self, names: "Iterable[str]") -> None:
        """Import what there is of `names`."""
        original = builtins.__import__

        def importing(
            name: str,
            globals: "Mapping[str, Any] | None" = None,  # noqa: A002  __import__ names them so
            locals: "Mapping[str, Any] | None" = None,  # noqa: A002
            fromlist: "Sequence[Any] | None" = (),
            level: int = 0,
        ) -> "ModuleType":
            module = original(name, globals, locals, fromlist, level)
            scope = globals or {}
            importer = scope.get("__name__", "")
            base = name
            if level:
                package = scope.get("__package__") or importer
                base = ".".join(filter(None, (package.rsplit(".", level - 1)[0], name)))
            found = self.edges.setdefault(importer, set())
            found.add(base)
            found.update(base + "." + item for item in fromlist or () if isinstance(item, str))
            return module

        builtins.__import__ = importing
        try:
            for name in names:
                try:
                    original(name)
                except ImportError:
                    continue
        finally:
            builtins.__import__ = original

    def hide(self) -> None:
        """Leave in `sys.modules` what a fresh interpreter has; hand the rest out on import.

        Done before the fork: a child would touch, and so copy, the pages of every module.
        """
        for name in [name for name in sys.modules if name not in FRESH]:
            self._put_by(name)
        self.shown = len(sys.modules)
        self._hand_out()

    def hide_new(self) -> None:
        """Hide what the agent has imported since: `os.wait4` brings resource."""
        while len(sys.modules) > self.shown > 0:  # the newest come last
            self._put_by(next(reversed(sys.modules)))

    def apart(self) -> None:
        """Be a child: let chance be its own."""
        if "numpy.random" in self.stash:
            self.stash["numpy.random"].seed()  # drawn before the fork: the same in every child

    def _put_by(self, name: str) -> None:
        self.stash[name] = sys.modules.pop(name)
        self.prepared.add(name)
        spec = getattr(self.stash[name], "__spec__", None)
        if spec is None or spec.name != name:  # its package put it there: collections.abc
            self.edges.setdefault(name.rpartition(".")[0], set()).add(name)

    def _hand_out(self) -> None:
        bootstrap: "Any" = sys.modules["_frozen_importlib"]
        find_and_load = bootstrap._find_and_load

        def _find_and_load(name: str, import_: "Any") -> "ModuleType":
            wanted: "dict[str, None]" = {}
            if name in self.stash:
                wanted = self._wanted(name)
                self._restore(wanted)
            module: "ModuleType" = find_and_load(name, import_)
            for late in [other for other in self.after if other == name or other in wanted]:
                self.after.pop(late)(sys.modules[late])
            return module

        # By this name the interpreter knows which lines of a traceback are its own, to leave out.
        _find_and_load.__code__ = _find_and_load.__code__.replace(
            co_filename=find_and_load.__code__.co_filename
        )
        bootstrap._find_and_load = _find_and_load

    def _wanted(self, name: str) -> "dict[str, None]":
        """List what an import of `name` brings; nothing where the program has such a file."""
        todo = [name]
        found: "dict[str, None]" = {}
        while todo:
            current = todo.pop()
            if current not in self.stash or current in found:
                continue
            found[current] = None
            todo.extend(self.edges.get(current, ()))
            parent = current.rpartition(".")[0]
            if parent:
                todo.append(parent)
        return {} if self._shadowed({current.partition(".")[0] for current in found}) else found

    @staticmethod
    def _shadowed(names: "set[str]") -> bool:
        """Tell whether a file beside the program is found before a module of the same name."""
        try:
            here = _listdir(sys.path[0]) if sys.path else []
        except OSError:
            return False
        for entry in here:
            stem = entry.partition(".")[0]
            if stem in names and stem not in sys.builtin_module_names:
                return True
        return False

    def _restore(self, names: "Iterable[str]") -> None:
        for name in names:
            sys.modules[name] = self.stash.pop(name)


MODULES = Modules()
MODULES.load(OWN)
