"""`capture=True` for calls that run in this process: what they print is kept on their futures.

All threads share `sys.stdout` and `sys.stderr`, so while such calls run, routing streams stand in
their places: what code in the context of such a call prints goes to its record, all else to the
stream that was there before.  A thread that the call starts has a context of its own: what that
prints is not kept.
"""

from __future__ import annotations

import os
import sys
import threading
from contextvars import ContextVar

from unirun._output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._future import Future
    from unirun.backend import Backend, CallOptions

__all__ = ["submit_captured"]

_record: ContextVar[Output | None] = ContextVar("unirun_output", default=None)
# Guards the two below, and what stands in sys.stdout and sys.stderr because of us. Reentrant, for a
# `__del__` that ends a future.
_lock = threading.RLock()
_running = 0  # calls whose output is kept
_routes: dict[str, Route] = {}


class Route:
    """Stands for a stream of this process, while output is kept."""

    def __init__(self, which: int, stream: Any) -> None:
        self._which = which
        self._stream = stream

    def write(self, text: str, /) -> Any:
        record = _record.get()
        if record is None or not isinstance(text, str):
            return self._stream.write(text)
        record._add(self._which, text)
        return len(text)

    @property
    def buffer(self) -> Any:
        """Where bytes are written."""
        return _Bytes(self, self._stream.buffer)

    def writelines(self, lines: Any, /) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """All the rest is that of the stream itself."""
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


class _Bytes:
    """The `buffer` of a route."""

    def __init__(self, route: Route, buffer: Any) -> None:
        self._route = route
        self._buffer = buffer

    def write(self, data: Any, /) -> Any:
        record = _record.get()
        if record is None:
            return self._buffer.write(data)
        record._add(self._route._which, bytes(data))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._buffer, name)


def submit_captured(
    backend: Backend, fn: Any, args: Any, kwargs: Any, options: CallOptions
) -> Future[Any]:
    """Submit a call whose output is kept by this process."""
    record = Output()
    _begin()
    token = _record.set(record)
    try:
        future = backend.submit(fn, args, kwargs, options)
    except BaseException:
        _end()
        raise
    finally:
        _record.reset(token)
    future.__dict__["_output"] = record
    future._when_ended(_end)
    return future


def submitter(backend: Backend) -> Callable[..., Future[Any]]:
    """How to submit calls with `capture=True` to that backend."""
    if backend.carries_settings:  # its workers tell what they print
        return backend.submit

    def submit(fn: Any, args: Any, kwargs: Any, options: CallOptions) -> Future[Any]:
        return submit_captured(backend, fn, args, kwargs, options)

    return submit


def _begin() -> None:
    global _running
    with _lock:
        _running += 1
        for which, name in ((1, "stdout"), (2, "stderr")):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, Route):
                _routes[name] = Route(which, stream)
                setattr(sys, name, _routes[name])


def _end(future: object = None) -> None:
    global _running
    with _lock:
        _running -= 1
        if _running:
            return
        for name, route in _routes.items():
            if getattr(sys, name) is route:  # else somebody has put a stream of his own there
                setattr(sys, name, route._stream)
        _routes.clear()


def _begin_anew_in_forked_child() -> None:
    """Nobody reads a record there: what a child of such a call prints is printed."""
    global _lock, _running
    _lock = threading.RLock()
    _running = 1
    _end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew_in_forked_child)
