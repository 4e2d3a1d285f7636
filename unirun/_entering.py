"""`with Executor()` and `async with Executor()`: the current executor, and its end with the block.

What ends the block by an exception ends the calls too.  The end of an `async with` block waits in a
thread of its own, so that the event loop goes on; being cancelled while it waits is as being
cancelled inside: what waits is cancelled, what runs is killed.
"""

from __future__ import annotations

from functools import partial

from unirun import _context
from unirun._deferral import imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar
    from types import TracebackType
    from typing import Any, Self

    from unirun._executor import Executor

__all__ = ["Entered", "current", "leave"]

current: ContextVar[Executor | None] = _context.executor
"""The innermost executor whose block this code is in."""


class Entered:
    """The part of an executor that makes it a context manager; all state is made by `Executor`."""

    _tokens: list[Any]
    if TYPE_CHECKING:
        shutdown: Callable[..., None]

    def __enter__(self) -> Self:
        self._tokens.append(current.set(self))  # type: ignore[arg-type]  # mixed into nothing else
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self._tokens.pop())
        failed = exc_type is not None
        try:
            self.shutdown(wait=True, cancel_futures=failed, kill=failed)
        except KeyboardInterrupt:  # all has been killed: one of them is enough for the caller
            if not isinstance(exc, KeyboardInterrupt):
                raise

    async def __aenter__(self) -> Self:
        imported("unirun._awaiting")  # no import is to delay the end of the block
        return Entered.__enter__(self)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end = partial(self.shutdown, wait=True, cancel_futures=True, kill=True)
        try:  # first: under trio a Ctrl-C is raised anywhere, and must not get between
            await imported("unirun._awaiting").elsewhere(
                self.shutdown if exc_type is None else end, end
            )
        finally:
            leave(self._tokens.pop())


def leave(token: Any) -> None:
    try:
        current.reset(token)
    except ValueError:
        return  # entered in another context: it was never current in this one
