"""The tables of settings in docs/configuration.md, made from the code.

`python tests/settings_table.py` writes them; a test compares.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from unirun._settings import KEYS, OWN_OPTIONS, Key

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"


def renewed(text: str) -> str:
    """The document with its tables as they should be."""
    for name, rows in _tables().items():
        table = "\n".join(rows)
        before, mark, after = text.partition(f"<!-- {name} -->\n\n")
        rest = re.sub(r"\A(\|.*\n)*\n?", "", after)
        text = f"{before}{mark}{table}\n\n{rest}"
    return text


def _tables() -> dict[str, list[str]]:
    head = ["| setting | what it is | default | value | variable |", "|---|---|---|---|---|"]
    tables = {
        scope: head + [_row(key) for key in KEYS.values() if key.scope == scope]
        for scope in ("pool", "routing", "call")
    }
    return tables | {"own": ["| backend | option | value |", "|---|---|---|", *_own_rows()]}


def _row(key: Key) -> str:
    variable = "in code only" if key.code_only else f"`UNIRUN_{key.name.upper()}`"
    cells = (f"`{key.name}`", key.doc, f"`{_plain(key.default)}`", key.form.allowed, variable)
    return f"| {' | '.join(cells)} |"


def _own_rows() -> Iterator[str]:
    for backend, options in OWN_OPTIONS.items():
        for option, form in options.items():
            yield f"| `{backend}` | `{option}` | {form.allowed} |"


def _plain(value: object) -> str:
    """A default as it would be written in a file."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value in ((), frozenset()):
        return "none"
    return "empty" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
