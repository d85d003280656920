"""JSON by the interpreter's own C code, without the `json` package and the ten that come with it.

In a cell whose programs are not Python's nobody else wants them: they would be 6 ms of the CPU time
and 0.8 MB of the memory of every new cell.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    encode_basestring_ascii: Any
    make_encoder: Any
    make_scanner: Any
else:
    from _json import encode_basestring_ascii, make_encoder, make_scanner


class _Strict:
    """What `json.JSONDecoder` tells its scanner."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float = float
    parse_int = int


_scan = make_scanner(_Strict)
# Two hooks that are not used, then, as in `json.JSONEncoder`: how strings, indents and separators
# are written; whether to sort keys, skip keys that are not strings, and allow NaN.
_encode = make_encoder(None, None, encode_basestring_ascii, None, ":", ",", *[False] * 3)


def loads(text: str) -> Any:
    """Return the value of a JSON text that begins with it."""
    return _scan(text, 0)[0]


def dumps(value: object) -> str:
    """Return a value of plain types as JSON."""
    return "".join(_encode(value, 0))
