"""The calls of one scope: which are open, which have failed, and how all of them are cancelled.

    submit ──> Places ──> backend ──> future ──ends──> Members: done, failed, cancelled
                                                          └─ the first failure cancels the rest

1. A call is a member from before it is handed over until its future has ended; a scope is over when
   none is left, and from then on takes none.
2. A failure is noted before whoever waits for its future goes on.  What was ended because the scope
   was cancelled, or its time was up, is no failure.
3. The rest is cancelled in a thread of its own, since futures that end must not be held up, and the
   body of the scope may be busy; or by who leaves the scope.
4. Scopes that are entered inside of one are cancelled with it; so is one that a call enters, with
   that call.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from functools import partial

from unirun._aside import is_no_place
from unirun._context import running
from unirun._errors import TaskCancelled, TaskTimeout
from unirun._prompt import span
from unirun._records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._future import Future
    from unirun._limited import HandOver, Limit, Line
    from unirun._map import Mapping
    from unirun.backend import CallOptions

__all__ = ["Inheriting", "Members", "Places", "is_cancellation", "is_cancellation_of_task"]


class Places:
    """What a call of a scope goes through, in the place of a view's limit; see `Executor._submit`.

    Calls of a map are not kept: who reads the map gets their outcomes.
    """

    def __init__(self, members: Members, limit: Limit | None = None, *, kept: bool = True) -> None:
        self.members = members
        self.limit = limit
        self._kept = kept

    @property
    def most(self) -> int | None:
        return None if self.limit is None else self.limit.most

    def submit(
        self, line: Line, backend: str, hand_over: HandOver, options: CallOptions
    ) -> Future[Any]:
        if self.limit is not None:
            hand_over = partial(self.limit.submit, line, backend, hand_over)
        return self.members.take(hand_over, options, kept=self._kept)

    def narrowed(self, limit: Limit) -> Places:
        """Of a view of the scope that has a limit, too."""
        return Places(self.members, limit)

    def for_map(self) -> Places:
        return Places(self.members, self.limit, kept=False)


class Inheriting:
    """The heir of a call that opens a scope: cancelling that call cancels the scope.

    By rule 3 in a thread of its own: whoever cancels a call is not held up.
    """

    __slots__ = ("_members",)

    def __init__(self, members: Members) -> None:
        self._members = members

    def __call__(self) -> None:
        if not (self._members.over or self._members.cancelling):
            self._members.begin_cancelling(from_outside=True)

    @property
    def is_over(self) -> bool:
        return self._members.over


class Members:
    """All calls of one scope."""

    def __init__(self, name: str, *, collects: bool) -> None:
        self.name = name  # for messages
        self.deadline: float | None = None
        self._collects = collects
        # Guards all below; notified whenever something changes. Reentrant, since a __del__ run by
        # a garbage collection in here may end a future.
        self._changed = threading.Condition(threading.RLock())
        self._changes = 0
        self._open: dict[Future[Any], None] = {}
        self._stuck: set[Future[Any]] = set()  # were to be ended, and cannot be
        self._alone: deque[Future[Any]] = deque()  # nobody has been told that we wait for them
        self._arriving = 0  # are being handed over
        self._inner: set[Members] = set()  # rule 4
        self._maps: list[Mapping] = []
        self._entered = False
        self._wake: Callable[[], object] | None = None  # of a coroutine that waits for a change
        self.on_stop: Callable[[], object] | None = None  # told once, when all is to end
        self.kept: list[Future[Any]] = []  # in the order of submits
        self.failures: dict[int, BaseException] = {}  # by id, in the order in which they came
        self._late: set[Future[Any]] = set()  # calls that the deadline has ended
        self.cancelling: bool = False
        self.from_outside: bool = False  # the scope around it was cancelled
        self.expired: bool = False  # the deadline has cut something off
        self.over: bool = False

    def open(self, timeout: float | None, latest: float | None) -> None:
        """The block begins."""
        with self._changed:
            if self._entered:
                raise RuntimeError(f"{self.name} cannot be entered twice; make another")
            self._entered = True
        own = None if timeout is None else time.monotonic() + timeout
        ends = [end for end in (own, latest) if end is not None]
        self.deadline = min(ends, default=None)

    # -- calls ----------------------------------------------------------------------------------

    def take(self, hand_over: HandOver, options: CallOptions, *, kept: bool) -> Future[Any]:
        """Rule 1."""
        with self._changed:
            self._check()
            self._arriving += 1
        try:
            future = hand_over(self._within(options))
        except BaseException:
            with self._changed:
                self._arriving -= 1
                self._note_change()
            raise
        with self._changed:
            self._arriving -= 1
            self._open[future] = None
            self._alone.append(future)
            if kept:
                self.kept.append(future)
            unwanted = self.cancelling
            self._note_change()
        future._when_ended(partial(self._ended, kept))
        if unwanted:
            self._stop(future)
        return future

    def _check(self) -> None:
        """Called with the lock held: whether it takes a call."""
        if not self._entered:
            raise RuntimeError(f"{self.name} was not entered; use it in a with statement")
        if self.over:
            raise RuntimeError(f"{self.name} has ended; submit to its executor, or make another")
        if self.is_late():
            self.expired = True
        if self.cancelling or self.expired:
            why = "has been cancelled" if self.cancelling else "has run out of time"
            raise TaskCancelled(f"{self.name} {why}, and takes no more calls")

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _within(self, options: CallOptions) -> CallOptions:
        own, ours = options.deadline, self.deadline
        if ours is None or (own is not None and own <= ours):
            return options
        return replace(options, deadline=ours)

    def _ended(self, kept: bool, future: Future[Any]) -> None:
        """Rule 2; must not block."""
        error = future._exception
        with self._changed:
            self._open.pop(future, None)
            self._stuck.discard(future)
            if self._is_cut_off(future):
                self._late.add(future)
                self.expired = self.expired or not self.cancelling
            elif kept and error is not None and not is_cancelled(future):
                self._add_failure(error)
            starts = self._is_to_end()
            self._note_change()
        if starts:
            self.begin_cancelling()

    def _is_cut_off(self, future: Future[Any]) -> bool:
        """Called with the lock held: whether the deadline has ended it; on threads, by its token.

        What was over in time has not noticed any.
        """
        error = future._exception
        return self.is_late() and (isinstance(error, TaskTimeout) or is_cancelled(future))

    def forget(self) -> None:
        """The scope is over and has told all; plans of the executor remember us for a while."""
        with self._changed:
            self.kept.clear()
            self._late.clear()
            self.failures.clear()
            self._maps.clear()
            self._alone.clear()
            self.on_stop = None

    def outcomes(self) -> dict[str, tuple[Future[Any], ...]]:
        """The kept calls that have ended, as "done", "failed" and "cancelled"."""
        with self._changed:
            kept, late = list(self.kept), set(self._late)
        found: dict[str, list[Future[Any]]] = {"done": [], "failed": [], "cancelled": []}
        for future in kept:
            if not future.done():
                continue
            if is_cancelled(future) or future in late:
                found["cancelled"].append(future)
            else:
                found["done" if future._exception is None else "failed"].append(future)
        return {how: tuple(futures) for how, futures in found.items()}

    # -- failures -------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Of what is no call: the body of the scope, a map."""
        with self._changed:
            self._add_failure(error)
            starts = self._is_to_end()
        if starts:
            self.cancel()

    def _add_failure(self, error: BaseException) -> None:
        """Called with the lock held; one that goes through several hands counts once."""
        self.failures.setdefault(id(error), error)

    def _is_to_end(self) -> bool:
        """Called with the lock held: whether the rest is to be cancelled now."""
        return bool(self.failures) and not (self._collects or self.cancelling or self.over)

    def begin_cancelling(self, *, from_outside: bool = False) -> None:
        """Rule 3."""
        cancel = partial(self.cancel, from_outside=from_outside)
        try:
            threading.Thread(target=cancel, name="unirun-scope", daemon=True).start()
        except RuntimeError:  # no thread to be had: who leaves the scope will see to it
            return

    def cancel(self, *, from_outside: bool = False) -> None:
        """Cancel what waits, kill what runs, ask what cannot be killed to stop; does not wait."""
        with self._changed:
            if self.cancelling or self.over:
                return
            self.cancelling, self.from_outside = True, from_outside
            calls, inner, told = list(self._open), list(self._inner), self.on_stop
            self._note_change()
        if told is not None:
            told()
        for scope in inner:
            scope.cancel(from_outside=True)
        for future in calls:
            self._stop(future)

    def _stop(self, future: Future[Any]) -> None:
        if future.cancel() or future.done() or future._stop_for_good():
            return
        with self._changed:
            if future in self._open:
                self._stuck.add(future)
                self._note_change()

    def expire(self) -> None:
        """The time of a block that can be stopped is up."""
        with self._changed:
            self.expired = self.expired or not self.over
        self.cancel()

    # -- maps -----------------------------------------------------------------------------------

    def add_map(self, mapping: Mapping) -> None:
        with self._changed:
            self._maps = [each for each in self._maps if not each.closed]
            self._maps.append(mapping)

    def finish_maps(self) -> None:
        """The block is left: submit what is left of maps, as a shutdown does."""
        for mapping in list(self._maps):
            mapping.drain(endless=True)

    def look_at_maps(self) -> None:
        """Take what has come for maps that nobody reads; one that fails, fails the scope."""
        for mapping in list(self._maps):
            error = _gather(mapping)
            if error is not None and not is_cancellation(error):
                if isinstance(error, TaskTimeout) and self.is_late():
                    self.expired = True
                else:
                    self.fail(error)

    # -- scopes inside --------------------------------------------------------------------------

    def enter(self, inner: Members) -> None:
        with self._changed:
            self._inner.add(inner)
            unwanted = self.cancelling
        if unwanted:
            inner.cancel(from_outside=True)

    def leave(self, inner: Members) -> None:
        with self._changed:
            self._inner.discard(inner)

    # -- waiting --------------------------------------------------------------------------------

    def _note_change(self) -> None:
        """Called with the lock held."""
        self._changes += 1
        self._changed.notify_all()
        if self._wake is not None:
            self._wake()

    def state(self) -> int:
        """What tells this moment from later ones."""
        with self._changed:
            return self._changes

    def end(self, *, without_stuck: bool = False) -> bool:
        """Take no more calls, if none is open; `without_stuck`: but for those that cannot end."""
        with self._changed:
            left = self._open.keys() - self._stuck if without_stuck else self._open
            self.over = self.over or not (left or self._arriving)
            return self.over

    def wait(self, seen: int, until: float | None = None) -> None:
        """Wait for a change since then; a moment more is possible."""
        self._say_that_we_wait(blocks_loop=is_no_place())
        with self._changed:
            if self._changes == seen:
                left = None if until is None else max(0.0, until - time.monotonic())
                self._changed.wait(span(left))

    def tell_change(self, seen: int, wake: Callable[[], object]) -> None:
        """Call `wake()` at the next change, or now if there was one since then; from any thread."""
        self._say_that_we_wait(blocks_loop=False)
        with self._changed:
            self._wake = wake
            if self._changes != seen:
                wake()

    def forget_waker(self, wake: Callable[[], object]) -> None:
        """It waits no longer."""
        with self._changed:
            if self._wake is wake:
                self._wake = None

    def _say_that_we_wait(self, *, blocks_loop: bool) -> None:
        """We may be in a call, and hold up what our calls need; or be what they run on."""
        if running.get() is None and not blocks_loop:
            return
        while self._alone:
            future = self._alone.popleft()
            backend = future._backend
            if backend is None or future.done():
                continue
            if blocks_loop:
                backend.help_with(future, time.monotonic())  # refuses in its own event loop
            else:
                backend.awaited(future)


def _gather(mapping: Mapping) -> BaseException | None:
    """Take what has ended of a map, without waiting; the failure that comes next, if nobody reads
    and nobody has asked for failures as results."""
    if not mapping._reading.acquire(blocking=False):
        return None
    try:
        while (chunk := _first_ended(mapping)) is not None:
            mapping._take(chunk)
        return next((error for _, _, error in mapping._ready if error is not None), None)
    finally:
        mapping._reading.release()


def _first_ended(mapping: Mapping) -> Any:
    if mapping.closed or not mapping._sent:
        return None
    finished = mapping._finished
    if finished is None:
        return mapping._sent[0] if mapping._sent[0].future.done() else None
    return None if finished.empty() else finished.get()


def is_cancellation(error: BaseException | None) -> bool:
    """Also of the libraries that coroutines may run in."""
    return isinstance(error, CancelledError) or is_cancellation_of_task(error)


def is_cancellation_of_task(error: BaseException | None) -> bool:
    """Whether somebody has cancelled a task of asyncio or trio."""
    asyncio, trio = sys.modules.get("asyncio"), sys.modules.get("trio")
    return (asyncio is not None and isinstance(error, asyncio.CancelledError)) or (
        trio is not None and isinstance(error, trio.Cancelled)
    )


def is_cancelled(future: Future[Any]) -> bool:
    return future.cancelled() or is_cancellation(future._exception)
