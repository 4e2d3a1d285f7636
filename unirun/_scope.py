"""`with executor.scope() as scope`: calls that end before the block does.

    with block ──submit, map──> members ──┐
      │ first failure, time-out, Ctrl-C ──┴──> the rest is cancelled and killed
      └─ leaving: wait for all ──> results, or one ExceptionGroup of all that has failed

As the nurseries of trio and `asyncio.TaskGroup`, where calls run on threads and processes too:

1. Leaving waits until every call has ended, whatever way the block was left.
2. The block counts as a call: what it raises is in the group, but KeyboardInterrupt, SystemExit and
   GeneratorExit pass as they are.  One exception is in the group once.
3. A CancelledError that leaves the block of a scope which was cancelled has done its work.
4. The deadline is that of each call; so it ends them where they run, also while the block computes.
"""

from __future__ import annotations

import time

from unirun import _entering
from unirun._context import current_task
from unirun._errors import ConfigError, ScopeTimeout, TaskCancelled, TaskTimeout
from unirun._plan import Given
from unirun._scope_members import Inheriting, Members, Places, is_cancellation
from unirun._submitter import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Self

    from unirun._context import TaskContext
    from unirun._executor import Executor
    from unirun._future import Future
    from unirun._map import MapResult
    from unirun._scope_async import AsyncBody
    from unirun._submitter import MapWish

__all__ = ["Scope"]

PATIENCE = 5.0
"""Seconds that a Ctrl-C waits for what is being killed."""


class _Within(View):
    """What has its calls in a scope: that itself, and views of it."""

    _members: Members

    def __init__(self, owner: Executor, given: Given) -> None:
        super().__init__(owner, given)
        assert isinstance(given.limit, Places)
        self._members = given.limit.members

    def _view(self, given: Given) -> View:
        return _Within(self._owner, given)

    def _start_map(self, fn: Any, iterables: tuple[Iterable[Any], ...], wish: MapWish) -> MapResult:
        assert isinstance(self._given.limit, Places)
        given = Given(self._given, self._given.limit.for_map())
        result = self._owner._map(fn, iterables, wish, given)
        self._members.add_map(result._mapping)
        return result

    def __reduce__(self) -> Any:
        raise TypeError("a scope cannot be pickled, as its calls end here; open one in the task")


class Scope(_Within):
    """A group of calls that end together; made by `Executor.scope` or `unirun.scope`.

    `scope.options(...)` is a view as that of an executor, with its calls in the scope. Threads of
    this process may use the scope while its block is open, tasks among them.
    """

    def __init__(
        self,
        owner: Executor,
        given: Given,
        timeout: float | None,
        on_error: str,
        name: str | None,
    ) -> None:
        if on_error not in ("cancel", "collect"):
            raise ConfigError(f"on_error must be 'cancel' or 'collect', not {on_error!r}")
        if timeout is not None and not timeout >= 0:
            raise ConfigError(f"timeout must be seconds, 0 or more, not {timeout!r}")
        self.name = name
        self.timeout = timeout
        self._shown = "a scope" if name is None else f"scope {name!r}"
        members = Members(self._shown, collects=on_error == "collect")
        places = given.limit
        limit = places.limit if isinstance(places, Places) else places
        super().__init__(owner, Given(given, Places(members, limit)))
        self._token: Any = None
        self._outer = places.members if isinstance(places, Places) else None
        self._task: TaskContext | None = None  # the call whose block this is
        self._body: AsyncBody | None = None
        self._foreign: BaseException | None = None  # a cancellation that was not ours
        self._ended: dict[str, tuple[Future[Any], ...]] | None = None  # its calls, once it is over
        self._seen = 0  # the state of the members that was looked at

    # -- what has become of its calls -----------------------------------------------------------

    @property
    def done(self) -> tuple[Future[Any], ...]:
        """Futures of `submit` that have returned, in the order of submission; not those of maps."""
        return self._outcomes()["done"]

    @property
    def failed(self) -> tuple[Future[Any], ...]:
        """Futures that ended with an exception of their own."""
        return self._outcomes()["failed"]

    @property
    def cancelled(self) -> tuple[Future[Any], ...]:
        """Futures that were cancelled or killed, or cut off when the time was up."""
        return self._outcomes()["cancelled"]

    def _outcomes(self) -> dict[str, tuple[Future[Any], ...]]:
        return self._members.outcomes() if self._ended is None else self._ended

    @property
    def results(self) -> list[Any]:
        """What the calls returned that are done, in the order of submission."""
        return [future._result for future in self.done]

    @property
    def deadline(self) -> float | None:
        """When its time is up, on `time.monotonic()`; that of the scope around it counts, too."""
        return self._members.deadline

    @property
    def cancelling(self) -> bool:
        """True once its calls are not wanted any more: for a block that computes for long."""
        return self._members.cancelling or self._members.is_late()

    def cancel(self) -> None:
        """Cancel what waits, kill what runs, and take no more calls; does not wait.

        What cannot be killed sees `current_task().cancelled`. Leaving the block then is no error.
        """
        self._members.cancel()

    # -- as the current executor: see `current_submitter` ---------------------------------------

    _drains = False

    @property
    def _closed(self) -> bool:
        return self._members.over

    # -- the block ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._note(exc)
        left_by = exc
        try:
            self._wait_for_all()
        except BaseException as error:  # Ctrl-C, or a wait that could never end
            self._give_up()
            if not _passes(error):
                raise
            exc = error
        finally:
            self._close()
        return self._end(exc, left_by)

    async def __aenter__(self) -> Self:
        from unirun._scope_async import body_here  # few programs have coroutines

        self._open()
        self._body = body_here(self._members)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        body, left_by = self._body, exc
        assert body is not None
        if body.leave(exc):
            exc = None  # a cancellation that was ours
        self._note(exc, foreign=body.is_foreign(exc))
        try:
            while not self._is_over():
                cancelled = await body.wait(self._seen)
                if cancelled is not None:
                    exc = self._foreign = cancelled
                    self._members.cancel()
            await body.settle()
        except GeneratorExit:  # dropped by a garbage collection: nothing can be awaited
            self._members.cancel()
            raise
        finally:
            self._close()
        if self._foreign is not None and self._members.failures:
            body.pass_on()
        return self._end(exc, left_by) or exc is None

    def _open(self) -> None:
        members = self._members
        outer = _entering.current.get()
        if self._outer is None and isinstance(outer, _Within) and not outer._members.over:
            self._outer = outer._members
        members.open(self.timeout, None if self._outer is None else self._outer.deadline)
        self._token = _entering.current.set(self)  # type: ignore[arg-type]
        if self._outer is not None:
            self._outer.enter(members)
        self._task = current_task()
        if self._task is not None:
            self._task.hand_down(Inheriting(members))

    def _close(self) -> None:
        self._members.over = True
        self._ended = self._members.outcomes()
        if self._token is not None:
            _entering.leave(self._token)
            self._token = None
        if self._outer is not None:
            self._outer.leave(self._members)

    def _note(self, exc: BaseException | None, *, foreign: bool = False) -> None:
        """Rule 2: how the block was left."""
        members = self._members
        if isinstance(exc, TaskTimeout) and members.is_late():
            members.expired = True  # it has waited for a call that was cut off
        elif is_cancellation(exc) or _passes(exc):
            if foreign or not (members.cancelling or members.expired):
                self._foreign = exc
            members.cancel()
        elif exc is not None:
            members.fail(exc)
        if not members.cancelling:
            members.finish_maps()

    def _wait_for_all(self) -> None:
        """Apart from the `try`: in Python 3.13 that does not see a Ctrl-C between two turns of a
        loop at its end."""
        while not self._is_over():
            self._members.wait(self._seen)

    def _is_over(self) -> bool:
        self._seen = self._members.state()
        self._members.look_at_maps()
        return self._members.end()

    def _give_up(self) -> None:
        """Interrupted: wait no longer than what is killed needs."""
        members, until = self._members, time.monotonic() + PATIENCE
        members.cancel()
        seen = members.state()
        while not members.end(without_stuck=True) and time.monotonic() < until:
            members.wait(seen, until)
            seen = members.state()

    def _end(self, exc: BaseException | None, left_by: BaseException | None) -> bool:
        """Raise what is to be raised; True if what left the block has done its work (rule 3)."""
        members = self._members
        failures = list(members.failures.values())
        passing = [each for each in (exc, *failures) if each is not None and _passes(each)]
        group = BaseExceptionGroup(f"errors in {self._shown}", failures) if failures else None
        try:
            if passing and passing[0] is left_by:
                return False
            if passing:
                raise passing[0]
            if members.expired and self._foreign is None:
                raise self._timed_out() from group
            if group is not None:
                raise group from None
            if self._foreign is not None and self._foreign is not left_by:
                raise self._foreign
            if self._foreign is None and (members.from_outside or self._is_cut_off_above()):
                raise TaskCancelled(f"{self._shown} was cancelled with what is around it") from None
            return self._foreign is None
        finally:
            del group, failures, passing, exc, left_by  # who keeps the error keeps this frame
            self._foreign = self._task = None
            members.forget()

    def _is_cut_off_above(self) -> bool:
        """Whether calls ended since ours was cancelled: they may have seen that before we did."""
        task = self._task
        return task is not None and task.cancelled and bool(self._outcomes()["cancelled"])

    def _timed_out(self) -> ScopeTimeout:
        counts = {how: len(futures) for how, futures in self._outcomes().items()}
        limit = "its deadline" if self.timeout is None else f"{self.timeout:g} s"
        return ScopeTimeout(
            f"{self._shown} was not done within {limit}: {counts['done']} calls had returned, "
            f"{counts['failed']} had failed, {counts['cancelled']} were cut off"
        )

    def __repr__(self) -> str:
        state = " ended" if self._members.over else " cancelled" if self.cancelling else ""
        name = "" if self.name is None else f" {self.name!r}"
        return f"<unirun.Scope{name}{state} of {self._owner!r}>"


def _passes(exc: BaseException | None) -> bool:
    """Rule 2: what no group may hold back."""
    return isinstance(exc, KeyboardInterrupt | SystemExit | GeneratorExit)


Scope.__module__ = "unirun"
