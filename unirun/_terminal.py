"""Text on a terminal: how many columns it takes there, and nothing in it that moves the cursor."""

from __future__ import annotations

import os
import unicodedata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["clean", "cut", "filled", "is_terminal", "size_of", "width"]

_WIDE = frozenset("WF")  # of East Asian widths
_UNSEEN = frozenset(("Mn", "Me"))  # combining marks stand over the character before them
_HARMFUL = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # control, direction, half a pair, line ends


def is_terminal(stream: Any) -> bool:
    """Whether somebody looks at that stream; False for one that is closed, or None."""
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def size_of(stream: Any) -> tuple[int, int]:
    """Columns and lines, as they are now; (80, 24) where that is no terminal, or does not say."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return 80, 24
    return columns or 80, lines or 24


def clean(text: str) -> str:
    """`text` on one line, without what a terminal would obey."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if unicodedata.category(c) in _HARMFUL else c for c in text)


def _columns_of(character: str) -> int:
    if unicodedata.category(character) in _UNSEEN:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def width(text: str) -> int:
    """How many columns a clean text takes."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def cut(text: str, columns: int) -> str:
    """As much of a clean text as fits; with dots at its end if that is not all."""
    if width(text) <= columns:
        return text
    dots = "..." if columns > 6 else ""
    left, kept = columns - len(dots), []
    for character in text:
        left -= _columns_of(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + dots


def filled(text: str, columns: int) -> str:
    """`text`, clean, in exactly so many columns."""
    text = cut(clean(text), columns)
    return text + " " * (columns - width(text))
