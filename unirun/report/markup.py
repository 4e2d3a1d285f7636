"""Small pieces of the page; whatever they are given comes out harmless."""

from __future__ import annotations

import html

from unirun.report.words import seconds

__all__ = ["bar", "cell", "text", "when"]

LONGEST = 300
"""Characters of one text; names have no end of their own."""


def text(value: str) -> str:
    """As text of an element or of an attribute in either kind of quotes."""
    value = value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
    # What cannot be shown, or turns the line around it, is shown as what it is not.
    shown = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "�" for c in value)
    return html.escape(shown)


def cell(value: str, sort: float | None = None, *, bad: bool = False) -> str:
    """A cell of a table; with `sort`, a number, by which the column can be sorted."""
    kind = " ".join(name for name, holds in (("n", sort is not None), ("bad", bad)) if holds)
    marks = f" class='{kind}'" if kind else ""
    marks += "" if sort is None else f" data-value='{sort:.9g}'"
    return f"<td{marks}>{text(value)}</td>"


def bar(filled: float) -> str:
    """A horizontal bar, filled to that share; an SVG, as the policy allows no style attributes."""
    width = max(0.0, min(1.0, filled)) * 100
    return (
        "<svg class='bar' viewBox='0 0 100 8' preserveAspectRatio='none' aria-hidden='true'>"
        f"<rect class='base' width='100' height='8'/><rect class='fill' width='{width:.1f}' "
        "height='8'/></svg>"
    )


def when(at: float) -> str:
    """A moment, from the first submit."""
    return seconds(max(0.0, at)) if at > 0 else "0 s"
