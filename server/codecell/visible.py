"""Text and sizes as people and terminals can take them; pure."""

import re

# C0 (but \t and \n), DEL and C1; bidi marks, embeddings, overrides and isolates; line separators;
# invisible format characters that smuggle text, and the whole plane of tags.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)


def harmless(text: str) -> str:
    """Make control, bidi and tag characters visible; newline and tab stay what they are."""
    return _UNSAFE.sub(lambda match: _VISIBLE[match[0]], text)


class _Visible(dict[str, str]):
    """What stands for an unsafe character; each is worked out once."""

    def __missing__(self, char: str) -> str:
        self[char] = shown = _shown(ord(char))
        return shown


def _shown(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)  # the picture of a control character, such as ␛
    if code == 0x7F:
        return "\u2421"
    return f"<U+{code:04X}>"


_VISIBLE = _Visible()


def json_size(text: str) -> int:
    """Return the bytes that JSON takes at the most on a wire: some transports escape all but ASCII.

    Args:
        text: JSON; DEL and each UTF-16 unit of it beyond ASCII become six bytes.
    """
    escaped = 5 * text.count("\x7f")
    if text.isascii():
        return len(text) + escaped
    plain = len(text.encode("ascii", "ignore"))
    return plain + escaped + 6 * (len(text.encode("utf-16-le", "surrogatepass")) // 2 - plain)


def size(count: int) -> str:
    """Write a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"
