"""How people learn of locks that a task has left behind: a ResourceWarning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

__all__ = ["warn_of"]


class _Leaving:
    """Warns when it is dropped, which is at once.

    So a filter that makes an error of the warning ends nothing but this: like that of a file
    nobody has closed, the error goes to `sys.unraisablehook`.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        warnings.warn(self._text, ResourceWarning, stacklevel=2)


def warn_of(task: str, names: Sequence[str]) -> None:
    """Say that a task of that name has ended with these locks acquired."""
    if names:
        _Leaving(
            f"task {task!r} ended holding {', '.join(names)}, released now; "
            "release what a task acquires before it ends, with a `with`"
        )
