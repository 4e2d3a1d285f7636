"""Rows of text under one another, for the commands that show what there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["table"]


def table(rows: Sequence[tuple[object, ...]]) -> Iterator[str]:
    """Rows indented and aligned; the last cell of a row as long as it likes."""
    columns = max(map(len, rows), default=0)
    widths = [
        max((len(str(row[n])) for row in rows if n < len(row) - 1), default=0)
        for n in range(columns)
    ]
    for row in rows:
        cells = [str(cell).ljust(widths[n]) for n, cell in enumerate(row)]
        yield f"  {'  '.join(cells)}".rstrip()
