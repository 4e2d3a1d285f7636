"""pdb without our frames: the caller of a task stands right above it, and a step leads into it.

For calls that run inline.  `PYTHONBREAKPOINT=unirun.set_trace python app.py` makes every
`breakpoint()` of a program use it.
"""

from __future__ import annotations

import pdb  # noqa: T100  # this is one
import sys
from types import FrameType, TracebackType
from typing import Any

__all__ = ["set_trace"]

_OURS = ("unirun", "unirun.*")
_USED_BY_US = {"cloudpickle", "psutil", *sys.stdlib_module_names}


class _Pdb(pdb.Pdb):
    """Neither stops in our frames nor shows them, unless it was started in one."""

    def __init__(self) -> None:
        super().__init__(skip=_OURS)

    def stop_here(self, frame: FrameType) -> bool:
        """Not where we call the standard library either: a step goes on to the user's next line."""
        return super().stop_here(frame) and not _is_called_by_us(frame)

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[Any], int]:
        stack, index = super().get_stack(f, t)
        shown = [
            entry
            for at, entry in enumerate(stack)
            if at == index or not self.is_skipped_module(str(entry[0].f_globals.get("__name__")))
        ]
        return shown, shown.index(stack[index])


def _is_called_by_us(frame: FrameType) -> bool:
    """Whether it is what we are made of that we have called, not a task."""
    above = frame.f_back
    while above is not None and _root(above) != "unirun":
        frame, above = above, above.f_back
    return above is not None and _root(frame) in _USED_BY_US


def _root(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def set_trace(*, header: str | None = None) -> None:
    """Start pdb in the caller, as `breakpoint()` does, but hide what unirun does in between.

    `up` in a task that runs inline shows who submitted it, `s` at a submit leads into the task.
    `header` is printed first.
    """
    debugger = _Pdb()
    if header is not None:
        debugger.message(header)
    debugger.set_trace(sys._getframe().f_back)


def post_mortem(error: BaseException) -> None:
    """Start pdb where that exception was raised, without our frames."""
    debugger = _Pdb()
    debugger.reset()
    debugger.interaction(None, error.__traceback__)


set_trace.__module__ = "unirun"
