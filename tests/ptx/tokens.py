"""PTX text to tokens and numbers."""

from __future__ import annotations

import re
import struct

from .errors import ParseError

__all__ = ["number", "tokens"]

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>"[^"]*")
      | (?P<number>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|0[bB][01]+U?
          |\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+U?)
      | (?P<word>\.[A-Za-z_]\w*|[%$_A-Za-z](?:::|[\w$.%])*)
      | (?P<mark>[{}\[\](),;:@!|+\-=<>])""",
    re.VERBOSE | re.DOTALL,
)
# What only serves debuggers.
_DEBUG_LINES = re.compile(r"^[ \t]*\.(loc|file)\b[^\n]*$", re.MULTILINE)
_SECTION = re.compile(r"^[ \t]*\.section\b[^{]*\{[^}]*\}", re.MULTILINE)


def tokens(text: str) -> list[tuple[str, str, int]]:
    """Kind, text and line of every token; the last one has the kind ``"end"``."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")  # keep line numbers

    text = _SECTION.sub(blank, _DEBUG_LINES.sub(blank, text))
    out: list[tuple[str, str, int]] = []
    position, line = 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ParseError(f"line {line}: cannot read {text[position : position + 20]!r}")
        kind = match.lastgroup or "skip"
        if kind != "skip":
            out.append((kind, match[0], line))
        line += match[0].count("\n")
        position = match.end()
    out.append(("end", "", line))
    return out


def number(text: str) -> int | float:
    """The value of a number as PTX writes it."""
    head = text[:2].lower()
    if head == "0f":
        return float(struct.unpack(">f", bytes.fromhex(text[2:]))[0])
    if head == "0d":
        return float(struct.unpack(">d", bytes.fromhex(text[2:]))[0])
    text = text.rstrip("U")
    if head == "0x":
        return int(text, 16)
    if head == "0b":
        return int(text, 2)
    if "." in text or "e" in text.lower():
        return float(text)
    return int(text, 8) if text.startswith("0") and text.isdigit() and len(text) > 1 else int(text)
