"""On which line of a TOML text each key stands; the parser does not tell.

For messages only: it takes the text for valid TOML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["line_numbers"]

_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.|=|\])""")
# What may hold a line break or a bracket that is none of the structure, then the rest of that.
_TOKEN = re.compile(
    r""""{3}(?:\\.|[^\\])*?"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[][{}\n]""",
    re.DOTALL,
)


def line_numbers(text: str) -> dict[tuple[str, ...], tuple[int, str]]:
    """By its path, for each key: its line and, with a space before it, the header it is under."""
    found: dict[tuple[str, ...], tuple[int, str]] = {}
    header: tuple[str, ...] = ()
    title = ""
    for number, line in _statements(text):
        if line.startswith("["):
            header, end = _dotted(line.lstrip("["))
            title = " " + line[: len(line) - len(line.lstrip("[")) + end]
            found[header] = (number, title)
        elif path := _dotted(line)[0]:
            found[header + path] = (number, title)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each line on which a header or a key begins, with its number."""
    lines = text.split("\n")
    number = begun = depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in ("[", "{")) - (token[0] in ("]", "}"))
        if token[0] != "\n":
            number += token[0].count("\n")
            continue
        number += 1
        if depth == 0:
            yield begun + 1, lines[begun].strip()
            begun = number
    if begun < len(lines):
        yield begun + 1, lines[begun].strip()


def _dotted(text: str) -> tuple[tuple[str, ...], int]:
    """The parts of a dotted key at the start of `text` and where it ends; none if it has no end."""
    parts: list[str] = []
    position = 0
    while match := _PART.match(text, position):
        parts.append(match[1] or match[2] or match[3])
        position = match.end()
        if match[4] != ".":
            return tuple(parts), position
    return (), 0
