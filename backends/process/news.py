"""What workers tell while they run calls, as their pool hears it: handed over, and waited for.

1. It is handed over with the role, which takes no time, and dealt with by `unirun._news`, without.
2. A call ends after what it has told was dealt with: so who has its result finds its log records
   handled and its output printed.  Until then its end is held back; not for ever, and nothing else
   waits meanwhile.  The same holds for a call that was killed, or whose worker died.
"""

from __future__ import annotations

import time
from _thread import allocate_lock

from unirun import _news
from unirun._news import Origin

from .control import HEARD, LOST
from .orders import Finish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Protocol, TypeAlias

    from . import wire
    from .alarms import Alarms
    from .control import Control
    from .future import ProcessFuture
    from .peer import Peer
    from .state import PoolState

    PassOn: TypeAlias = Callable[["Heard", Origin, str, Any], bool]
else:
    Protocol = object  # `typing` takes 3 ms to import

NOTHING = Finish((), "answered")
"""The end of no call: something was heard."""
LOOK_AGAIN = 0.5
"""Seconds after which it is asked whether those who deal with news get on."""
SAY_AGAIN = 1.0
"""Seconds between two lines that say what was dropped."""


class Pool(Protocol):
    def post(self, do: Callable[..., None], *args: Any) -> None: ...
    def finish(self, order: Finish) -> None: ...


class Heard:
    """How much of one worker's news was dealt with; for the thread that does so."""

    __slots__ = (
        *(
            "__weakref__",
            "_control",
            "_count",
            "_counting",
            "_lost",
            "_pass_on",
            "_said_at",
            "last",
        ),
    )

    def __init__(self, control: Control, pass_on: PassOn | None) -> None:
        """`pass_on(heard, origin, topic, value)` has it dealt with elsewhere, and `took` called
        after that; if it returns False, this is done here."""
        self._control = control
        self._pass_on = pass_on
        self._counting = allocate_lock()  # guards the count, and that what is told of it only grows
        self.last = 0  # number that the desk has given to what it told last
        self._count = 0
        self._lost = 0
        self._said_at = 0.0

    def deal(self, origin: Origin, topic: str, value: Any) -> None:
        if self._pass_on is None or not self._pass_on(self, origin, topic, value):
            _news.deliver(origin, topic, value)
            self.took(1)
        if self._control.words[LOST] > self._lost:
            self.say_losses(origin, SAY_AGAIN)

    def took(self, count: int) -> None:
        """So many more were dealt with, here or by whoever they were passed on to."""
        with self._counting:
            self._count += count
            self._control.words[HEARD] = self._count

    def say_losses(self, origin: Origin, pause: float = 0.0) -> None:
        lost, now = int(self._control.words[LOST]), time.monotonic()
        if lost > self._lost and now - self._said_at >= pause:
            count, self._lost, self._said_at = lost - self._lost, lost, now
            if self._pass_on is None or not self._pass_on(self, origin, "lost", count):
                _news.deliver(origin, "lost", count)


class News:
    """With the role, but for `attend` and `leave`."""

    def __init__(
        self, pool: Pool, peers: Mapping[int, Peer], state: PoolState, alarms: Alarms
    ) -> None:
        self._pool = pool
        self._peers = peers
        self._state = state
        self._alarms = alarms
        self.pass_on: PassOn | None = None  # set before the first call
        self._desk: _news.Desk | None = None  # once something was told
        self._held_back: dict[int, tuple[Finish, float]] = {}  # by number; and since when
        self._number = 0  # of the last
        self._watching = False  # an alarm is set for `_look`, ...
        self._done, self._moved = 0, 0.0  # ... which saw this then, and when it had changed
        self._stuck_at = -1  # how much was dealt with when handlers were found to hang

    def hear(self, peer: Peer, message: wire.Message) -> None:
        """Rule 1."""
        _, index, topic, value, told = message
        if self._desk is None:
            self._desk = _news.desk
            self._desk.enter()
        heard = peer.heard
        if heard is None:
            assert peer.control is not None
            heard = peer.heard = Heard(peer.control, self.pass_on)
        heard.last = self._desk.put(heard.deal, self._origin(peer, index, told), topic, value)

    def _origin(self, peer: Peer, index: int, told: tuple[Any, ...] | None) -> Origin:
        future = self.teller(peer, index) if index else None
        if told is not None:  # by a worker of an executor that a task there has made
            return Origin(future, *told)
        name = "" if future is None else future.name
        return Origin(future, name, f"pid {peer.pid}", peer.pid or 0)

    def teller(self, peer: Peer, index: int) -> ProcessFuture | None:
        """The call with that index, if its worker has not answered it."""
        held = self._state.held(peer.number)
        return next((future for future in held if future._index == index), None)

    @property
    def is_quiet(self) -> bool:
        """No end of a call is held back."""
        return not self._held_back

    def end(self, order: Finish) -> None:
        """Rule 2: have these calls end, now or soon."""
        desk = self._desk
        peer = None if desk is None or order.worker is None else self._peers.get(order.worker)
        if desk is None or peer is None or peer.heard is None or peer.heard.last <= desk.done:
            self._pool.finish(order)
        elif self._stuck_at == desk.done:
            self._pool.finish(order)  # they hang still: once was enough
        else:
            self._hold_back(order, desk)

    def _hold_back(self, order: Finish, desk: _news.Desk) -> None:
        self._number += 1
        now = time.monotonic()
        if not self._held_back:
            self._done, self._moved = desk.done, now
        self._held_back[self._number] = order, now
        desk.put(self._pool.post, self._let_go, self._number)
        if not self._watching:
            self._watching = True
            self._alarms.after(LOOK_AGAIN, self._look)

    def _let_go(self, number: int) -> None:
        order, _ = self._held_back.pop(number, (None, 0.0))
        if order is not None:
            self._pool.finish(order)

    def _look(self) -> None:
        """Do handlers get on? Else calls do not wait for them."""
        desk, now = self._desk, time.monotonic()
        if desk is not None and desk.done != self._done:
            self._done, self._moved = desk.done, now
        is_stuck = now - self._moved >= _news.PATIENCE
        if is_stuck:
            self._stuck_at = self._done
        for number, (_, since) in list(self._held_back.items()):
            if is_stuck or now - since >= _news.AT_MOST:
                self._let_go(number)
        self._watching = bool(self._held_back)
        if self._watching:
            self._alarms.after(LOOK_AGAIN, self._look)

    def gone(self, peer: Peer) -> None:
        """Its last words were heard."""
        if peer.heard is not None and self._desk is not None:
            peer.heard.last = self._desk.put(peer.heard.say_losses, self._origin(peer, 0, None))

    def let_all_go(self) -> list[Finish]:
        """The pool ends because of a bug: nobody waits any more."""
        orders = [order for order, _ in self._held_back.values()]
        self._held_back = {}
        return orders

    # -- without the role -------------------------------------------------------------------------

    def attend(self) -> None:
        if self._desk is not None:
            self._desk.attend()

    def leave(self) -> None:
        """The pool is over: what it has heard is dealt with before that, unless handlers hang."""
        if self._desk is not None:
            self._desk.leave()
