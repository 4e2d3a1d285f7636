"""Where a call was submitted: the line of the program, for messages about the call.

    submit ──> note_here() ──> future._site = Site(code, instruction) ── call fails ──> "app.py:12"

Noting costs a look at the frame of the caller and no text: a Site is the same object for all calls
from one place that follow one another.  Still that is 6 to 9 % of the price of a submit to
threads or processes; so there it is done on demand (`call_sites`), and elsewhere as a rule.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar

from unirun._context import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

__all__ = ["Site", "are_noted", "from_here", "note", "site_of"]


def are_noted(wish: str, backend: str) -> bool:
    """Whether sites are noted for calls there; `wish` is the setting `call_sites`."""
    if wish == "auto":
        return sys.flags.dev_mode or backend in ("inline", "coroutine")
    return wish == "always"


class Site:
    """An instruction of the program."""

    __slots__ = ("code", "lasti")

    def __init__(self, code: CodeType | None, lasti: int) -> None:
        self.code = code
        self.lasti = lasti

    def __str__(self) -> str:
        assert self.code is not None
        lines = self.code.co_lines()
        line = next((line for start, end, line in lines if start <= self.lasti < end), None)
        return f"{self.code.co_filename}:{line or self.code.co_firstlineno}"


_last = Site(None, -1)  # replaced, never changed
_passed_on: ContextVar[tuple[Site, object] | None] = ContextVar("unirun_site", default=None)
"""For calls that are handed over later, or for a map: their site, and the call that code is in
where this was set, since contexts are copied into calls."""


def note(future: Any) -> None:
    """To be called by the `submit` of a backend: the caller of its caller may be the program."""
    try:
        frame = sys._getframe(3)
    except ValueError:  # not called by an executor
        return
    last = _last
    if frame.f_code is last.code and frame.f_lasti == last.lasti:
        future._site = last
    else:
        future._site = _find(frame)


def from_here(submit: Callable[..., Any]) -> Callable[..., Any]:
    """`submit`, to be called here or elsewhere, with the site that the program is at now."""
    site = _find(sys._getframe(1))
    if site is None:
        return submit

    def from_there(*args: Any) -> Any:
        token = _passed_on.set((site, running.get()))
        try:
            return submit(*args)
        finally:
            _passed_on.reset(token)

    return from_there


def _find(frame: FrameType | None) -> Site | None:
    global _last
    first = True
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "unirun":
        if first and (passed := _passed_on.get()) is not None and passed[1] is running.get():
            return passed[0]
        frame, first = frame.f_back, False
    if frame is None:
        return None
    last = _last
    if frame.f_code is not last.code or frame.f_lasti != last.lasti:
        last = _last = Site(frame.f_code, frame.f_lasti)
    return last


def site_of(future: Any) -> str | None:
    site = getattr(future, "_site", None)
    return None if site is None else str(site)
