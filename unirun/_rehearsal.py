"""What a worker process runs before the first call of a function that learned to go there."""

from __future__ import annotations

import os
import sys

from unirun._profile import key_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["agree", "expected_of"]

_GONE = object()


def expected_of(watched: tuple[tuple[dict[str, Any], str, Any], ...]) -> list[tuple[str, str, Any]]:
    """(module, name, value) of what a function reads: what a worker must find, too.

    Functions by their key. Not of `__main__`, whose functions travel with what they read.
    """
    found = []
    for space, name, value in watched:
        module = space.get("__name__", "")
        if (
            name in space
            and module != "__main__"
            and type(value).__name__ not in ("module", "type")
        ):
            found.append((module, name, _shown(value)))
    return found


def agree(fn: Any, expected: list[tuple[str, str, Any]]) -> tuple[str, str]:
    """What is different here, "" if nothing is; and the working directory.

    `fn` is there because to get here it had to be imported.
    """
    for module, name, value in expected:
        here = _shown(getattr(sys.modules.get(module), name, _GONE))
        if type(here) is not type(value) or here != value:
            return f"{module}.{name}", ""
    return "", os.getcwd()


def _shown(value: Any) -> Any:
    return f"function {key_of(value)}" if callable(value) else value
