"""How a done-callback is called: what it raises is logged, as in the standard library."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._future import Future

__all__ = ["call_back", "in_callback"]

_here = threading.local()  # .calling: this thread runs a callback


def in_callback() -> bool:
    """Whether this code is called by a future that has ended."""
    return getattr(_here, "calling", False)


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
