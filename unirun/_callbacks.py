"""How a done-callback is called: what it raises is logged, as in the standard library."""

from __future__ import annotations

import threading
from contextvars import copy_context

from unirun import _context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context
    from typing import Any

    from unirun._future import Future

__all__ = ["call_back", "in_callback", "in_this_context"]

_here = threading.local()  # .calling: this thread runs a callback


def in_callback() -> bool:
    """Whether this code is called by a future that has ended."""
    return getattr(_here, "calling", False)


def in_this_context(fn: Callable[[Any], object]) -> Callable[[Any], object]:
    """To be called with the context variables that there are here and now."""
    if len(copy_context()) == 0 or str(getattr(fn, "__module__", None)).startswith(_WITHOUT):
        return fn
    return _InContext(_context.apart(), fn)


_WITHOUT = ("unirun.", "asyncio.", "concurrent.")  # these run no code of the user in there


class _InContext:
    __slots__ = ("_context", "_fn")

    def __init__(self, context: Context, fn: Callable[[Any], object]) -> None:
        self._context = context
        self._fn = fn

    def __call__(self, future: Any) -> None:
        self._context.run(self._fn, future)


def call_back(fn: Callable[[Any], object], future: Future[Any]) -> None:
    before, _here.calling = in_callback(), True
    try:
        fn(future)
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            raise  # Ctrl-C hit while a callback ran here: it is for the caller
        _log(future)
    except BaseException:  # SystemExit too: a callback must not end the thread that runs it  # noqa: BLE001
        _log(future)
    finally:
        _here.calling = before


def _log(future: Future[Any]) -> None:
    import logging

    logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)
