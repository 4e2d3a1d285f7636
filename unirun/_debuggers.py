"""Whether somebody looks at a call in a debugger: then its time stands still."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

__all__ = ["holds", "is_leaving", "is_tracing"]

# Whoever debugs sets no trace function of another kind; coverage, say, is none of these.
_MODULES = ("bdb", "pdb", "pudb", "pydevd", "_pydevd_bundle", "_pydevd_frame_eval", "debugpy")
_DEBUGGER_ID = 0  # of `sys.monitoring`, from 3.12 on


def is_tracing() -> bool:
    """Whether a debugger follows this thread already, before a call begins in it."""
    trace = sys.gettrace()
    owner = type(getattr(trace, "__self__", trace))
    if any(_is_debugger(each.__module__) for each in owner.__mro__):
        return True
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and monitoring.get_tool(_DEBUGGER_ID) is not None


def holds(thread: int) -> bool:
    """Whether that thread stands in a debugger, waiting for what somebody will type."""
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        if _is_debugger(str(frame.f_globals.get("__name__", ""))):
            return True
        frame = frame.f_back
    return False


def is_leaving(error: BaseException) -> bool:
    """Whether `quit` was typed: the program is to end, not to handle the outcome of a call."""
    bdb = sys.modules.get("bdb")
    return bdb is not None and isinstance(error, bdb.BdbQuit)


def _is_debugger(module: str) -> bool:
    return module.partition(".")[0] in _MODULES or module == "IPython.core.debugger"
