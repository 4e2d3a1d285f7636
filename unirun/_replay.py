"""What a future can do about a call that failed: raise it as often as one asks, or run it again."""

from __future__ import annotations

from unirun._errors import NotReplayable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

__all__ = ["Replayable"]


class Replayable:
    """The part of a future that is about its exception."""

    _state: str
    _exception: BaseException | None
    _traceback: tuple[TracebackType | None] | None = None
    """Of the exception as it came, before anybody raised it."""

    def _failure(self) -> BaseException:
        """What `result()` is to raise: with the traceback that it came with, not with those of all
        who have asked before."""
        error = self._exception
        if error is None:
            from concurrent.futures import CancelledError

            return CancelledError()
        if self._traceback is None:
            self._traceback = (error.__traceback__,)
        else:
            BaseException.with_traceback(error, self._traceback[0])
        return error

    def replay(self, *, debug: bool = False) -> Any:
        """Run a call that failed once more: here, in this thread, with the arguments it had.

        Its context variables, settings, name, id, attempt and seed are as they were; time limits do
        not count. Arguments are those that were sent, or, on threads, the very objects. Whatever
        the call does, it does again, and in this process.

        Args:
            debug: where it raises, start pdb there; `breakpoint()` works in any case.

        Returns:
            What the call returns this time.

        Raises:
            NotReplayable: it has not failed, or what it was called with is gone.
            What the call raises this time.
        """
        again = self._find_again()
        value, error = again()
        if error is None:
            return value
        if debug and isinstance(error, Exception):
            from unirun._pdb import post_mortem

            post_mortem(error)
        try:
            raise error
        finally:
            del error  # the traceback must not keep itself alive

    def _find_again(self) -> Callable[[], tuple[Any, BaseException | None]]:
        if self._state in ("PENDING", "RUNNING"):
            why = "has not ended; wait for it first"
        elif self._state != "FINISHED":
            why = "was cancelled or killed, and did not fail; submit it again"
        elif self._exception is None:
            why = "has not failed, it has returned; call the function again"
        elif (again := self._again()) is not None:
            return again
        else:
            why = "has failed, but what it was called with is gone; submit it again"
        raise NotReplayable(f"the call {why}")

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        """What runs it again and returns its outcome; None where that cannot be any more."""
        return None
