"""Names that a program gives itself: a Java file is called after its public class; pure.

Each rule reads a program and the name that its file has so far, and returns the name that the file
must have (without the extension) and the name that it is started by, or None where the program does
not say.
"""

import re
from collections.abc import Callable
from typing import NamedTuple


class Name(NamedTuple):
    """What a program calls itself."""

    stem: str
    entry: str


Rule = Callable[[str, str], Name | None]

_JAVA_TOKEN = re.compile(
    r"""
    //[^\n]* | /\*.*?(?:\*/|\Z)                         # comments
  | \"{3}.*?(?:(?<!\\)\"{3}|\Z)                         # text blocks
  | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'           # strings and characters
  | (?P<brace>[{}])
  | (?P<package>\bpackage\s+(?P<path>[\w.]+)\s*;)
  | (?P<public>\bpublic\b)
  | (?P<type>(?<![\w.])(?:class|interface|enum|record)\s+(?P<name>[^\W\d]\w*)\s*[\w\s<(,{@.?&])
  | (?P<main>\bvoid\s+main\s*\()
  | (?P<end>;)
    """,
    re.VERBOSE | re.DOTALL,
)


def java(code: str, stem: str = "") -> Name | None:
    """Find the file's name, its public type, and its entry, the first type with a main."""
    del stem  # the compiler minds only that of a public class
    depth, package, public = 0, "", False
    first = named = entry = current = ""
    at = 0
    while match := _JAVA_TOKEN.search(code, at):
        at = match.end()
        if match["brace"]:
            depth += 1 if match["brace"] == "{" else -1
            public = False
        elif match["main"] and depth == 1:
            entry = entry or current
        elif depth:
            continue
        elif match["package"]:
            package = match["path"] + "."
        elif match["public"]:
            public = True
        elif match["end"]:
            public = False
        elif match["type"]:
            at = match.end("name")
            current = match["name"]
            first = first or current
            if public:
                named = named or current
    name = named or entry or first
    return Name(name, package + (entry or name)) if name else None


_ERLANG_MODULE = re.compile(r"^\s*-module\(\s*'?([a-z][A-Za-z0-9_@]*)'?\s*\)\s*\.", re.MULTILINE)


def erlang(code: str, stem: str = "") -> Name | None:
    """Find the module's name."""
    del stem
    match = _ERLANG_MODULE.search(code)
    return Name(match[1], match[1]) if match else None


_HASKELL_MODULE = re.compile(r"^module\s+([A-Z][\w.']*)", re.MULTILINE)


def haskell(code: str, stem: str = "main") -> Name:
    """Find the module whose `main` is meant, whatever it is called."""
    match = _HASKELL_MODULE.search(code)
    return Name(stem, match[1] if match else "Main")


_KOTLIN_TOKEN = re.compile(
    r"""
    //[^\n]* | /\*.*?(?:\*/|\Z)                         # comments
  | \"{3}.*?(?:\"{3}|\Z)                               # raw strings
  | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])'          # strings and characters
  | (?P<brace>[{}])
  | ^package\s+(?P<package>[\w.]+)
  | @file:JvmName\("(?P<file>\w+)"\)
  | \b(?:class|object|interface)\s+(?P<type>[^\W\d]\w*)
  | (?P<main>\bfun\s+main\s*\()
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


def kotlin(code: str, stem: str = "main") -> Name:
    """Name the class that Kotlin makes of a file's functions, or the object that has the main."""
    package, file, current, held, depth = "", f"{stem[:1].upper()}{stem[1:]}Kt", "", "", 0
    for match in _KOTLIN_TOKEN.finditer(code):
        if match["brace"]:
            depth += 1 if match["brace"] == "{" else -1
        elif match["package"]:
            package = f"{match['package']}."
        elif match["file"]:
            file = match["file"]
        elif match["type"] and not depth:
            current = match["type"]
        elif match["main"] and not depth:
            return Name(stem, package + file)
        elif match["main"]:
            held = held or current
    return Name(stem, package + (held or file))
