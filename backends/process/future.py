"""A future of the process backend: it carries its call, until that is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, PENDING
from functools import partial

from unirun._future import Future
from unirun._record import read
from unirun.backend import CallOptions

from . import outcomes, telling
from .state import ALONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unirun._carried import Carried
    from unirun._record import Part

    from .backend import ProcessBackend
    from .exchange import Side
    from .peer import Peer
else:
    Any = object  # `typing` takes 3 ms to import


class Profile:
    """What all calls of one function with the same options have in common."""

    __slots__ = (
        *("about", "carried", "function", "function_id", "handles", "kind", "name", "options"),
        "twin",
    )

    def __init__(
        self, function_id: int, function: bytes | None, name: str, options: CallOptions, kind: int
    ) -> None:
        self.function_id = function_id  # 0: the function is in the payload
        self.function = function
        self.name = name
        self.options = options
        self.kind = kind
        self.twin: Profile | None = None  # the last one made of it by `carrying`
        self.handles: list[Any] = []  # in what is carried
        self._carry(None if options.settings is None else (options.settings, None, None, None))

    def carrying(self, carried: Carried, handles: list[Any]) -> Profile:
        """One for calls that come with this."""
        made = Profile(self.function_id, self.function, self.name, self.options, self.kind)
        made.handles = handles
        made._carry(carried)
        return made

    def _carry(self, carried: Carried | None) -> None:
        self.carried = carried
        # What the worker is told for `current_task()`; None where it depends on the moment.
        self.about: tuple[Any, ...] | None = None
        if self.kind != ALONE:
            options = self.options
            self.about = (self.name, options.kind, options.attempt, None, False, carried)


class ProcessFuture(Future[Any]):
    """Class attributes are the state of a new one: creating it stores next to nothing."""

    _observed: bool = True
    told_begun: bool = False  # to those who watch
    figures: tuple[Any, ...] | None = None  # as `telling` makes them
    number: int
    _since: float = 0.0  # when it was submitted, for dumps
    kind: int = ALONE  # for the state machine, as is `priority`
    priority: int = 0
    reason: BaseException | None = None  # why it is being killed
    victim_of: Peer | None = None  # the worker that is being killed for it
    on_part: Callable[[bytes, memoryview], None] | None = None
    pass_on: Callable[[Side | None, int, bytes], None] | None = None  # who gets its answer
    _profile: Profile
    _kept: Any = None  # of one that has failed, for `replay`
    _payload: Any = b""  # a tuple of plain arguments, or a pickle
    _answer: Any = None  # what the worker sent, until it is settled
    _side: Side | None = None  # where a large result lies, until then
    _peer: Peer | None = None  # the worker it was sent to
    _index: int = 0  # of the call among those that worker got
    _pid: int | None = None  # of the worker that has answered
    _queued_until: float | None = None
    _running_until: float | None = None
    _backend: ProcessBackend

    @property
    def options(self) -> CallOptions:
        return self._profile.options

    @property
    def name(self) -> str:
        return self._profile.name

    def about(self) -> tuple[Any, ...]:
        """What is told to the worker; the body starts now."""
        about = self._profile.about
        if about is not None:
            return about
        options = self.options
        end = options.deadline
        if options.timeout is not None:
            own = time.monotonic() + options.timeout
            end = own if end is None else min(own, end)
        self._running_until = end
        parts = self.on_part is not None
        return self.name, options.kind, options.attempt, end, parts, self._profile.carried

    def unsaid(self, known: int) -> Part | None:
        """What its worker has done of it beyond `known` items, if that is in no pipe; for a map."""
        control = None if self._peer is None else self._peer.control
        return None if control is None else read(control.record, self._index, known)

    def _tell_info(self) -> dict[str, Any]:
        told, parts = self._tell_later()
        return told(*parts)

    def _tell_later(self) -> tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]:
        peer, pid = self._peer, self._pid
        if peer is not None and self._state is not PENDING:
            pid = peer.pid
        seconds = self.figures or telling.begun(self)
        profile = self._profile
        parts = profile.options, profile.name, pid, self._since, self.told_begun, seconds
        return telling.told, parts

    def keep(self) -> None:
        """It has failed: what `replay` needs stays with it. Before `_payload` is dropped."""
        if self._payload is not None and self.on_part is None:
            from .again import keep

            self._kept = keep(self._payload)

    def _again(self) -> Callable[[], tuple[Any, BaseException | None]] | None:
        if self._kept is None:
            return None
        from .again import rerun

        return partial(rerun, self._profile, self._profile.carried, self.number, self._kept)

    def ends_of_waiting(self) -> list[float]:
        return [end for end in (self._queued_until, self.options.deadline) if end is not None]

    def end_of_running(self) -> float | None:
        return self._running_until

    def is_overdue(self) -> bool:
        return self._running_until is not None and time.monotonic() >= self._running_until

    def cancel_unsent(self) -> bool:
        ended = self._end(CANCELLED_AND_NOTIFIED, None, None, only_pending=True)
        if ended:
            self._payload = None
        return ended

    def expire_unsent(self) -> bool:
        """Its time to wait is up; False if it does not wait any more."""
        ended = self._begin() and self._fail(outcomes.queue_timeout_of(self))
        if ended:
            self._payload = None
        return ended

    def _invoke_callbacks(self) -> None:
        self._backend.call_back(super()._invoke_callbacks)
