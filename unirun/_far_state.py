"""Which leases an engine is asked for, and which call runs in which; pure.

An engine is not given calls but asked for *leases*: a lease is a place of its (a worker's slot)
for as long as there is something to run.  It begins whenever and wherever the engine likes; then
it is given one call after the other.  Events in, orders out:

    submitted, begun, ended, gone, host_gone, tick ──▶ ASK, RUN, OVER, DROP

1. A call is given to one lease, once.  A lease that an engine runs twice is two leases, of which
   the second finds nothing to do: so nothing the engine repeats can repeat a call.
2. For calls with the same needs there are never more leases than calls that are open, nor than the
   cluster has slots (and some more while it may grow).  A call is not bound to the lease that was
   asked for on its behalf: whichever begins first takes the one that is first in line.
3. A lease without a call is kept for `linger` seconds, since the next call may come soon, and is
   over then; also after `span` seconds with calls, so that others get their turn.
4. Where calls wait, slots are free and no lease begins, one more is asked for: those there are may
   stand behind somebody's long task.  No more than would fill the cluster twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

__all__ = ["ASK", "DROP", "OVER", "RUN", "Leases", "Needs", "Order"]

Needs: TypeAlias = tuple[tuple[str, float], ...]
"""What a call needs of the place where it runs: (resource, amount), sorted."""

ASK, RUN, OVER, DROP = "ask", "run", "over", "drop"
PATIENCE = 0.5
"""Seconds without a lease that begins before rule 4 holds."""


class Order(NamedTuple):
    """ASK for a lease with these needs; RUN that call in it; it is OVER; DROP the request."""

    what: str
    lease: int
    host: int | None = None
    needs: Needs = ()
    call: object = None


class Lease:
    """Asked for; then, once it has a host, idle or with a call."""

    __slots__ = ("begun", "call", "host", "idle_since", "needs", "number")

    def __init__(self, number: int, needs: Needs) -> None:
        self.number = number
        self.needs = needs
        self.host: int | None = None
        self.call: object = None
        self.begun = 0.0
        self.idle_since = 0.0


class Leases:
    """One thread at a time.

    `waiting(needs)` tells how many calls with these needs are in line, `take(needs, host)` the next
    of them for a place there, begun, or None, and `near(needs, host)` how well it suits that place.
    """

    def __init__(
        self,
        waiting: Callable[[Needs], int],
        take: Callable[[Needs, int | None], object],
        *,
        most: int | None,
        linger: float,
        span: float,
        near: Callable[[Needs, int | None], int] = lambda needs, host: 0,
    ) -> None:
        self._waiting = waiting
        self._take = take
        self._near = near
        self._numbers = itertools.count(1)
        self.most = most  # calls at a time; None: as many as there are slots
        self.linger = linger
        self.span = span
        self.slots = 1  # of the whole cluster
        self.may_grow = False
        self.leases: dict[int, Lease] = {}
        self._progress_at = 0.0  # when a lease began last, or nothing waited
        self._more = 0  # rule 4

    # -- events -----------------------------------------------------------------------------------

    def submitted(self, needs: Needs, now: float) -> list[Order]:
        """There is one more call in line."""
        idle = self._idle(needs)
        if len(idle) > 1:
            idle.sort(key=lambda lease: -self._near(needs, lease.host))
        for lease in idle:
            if orders := self._give(lease, now):
                return orders
        return self._ask(needs)

    def begun(self, number: int, host: int, now: float) -> list[Order]:
        """The engine runs that lease, there; perhaps one that is not expected any more."""
        lease = self.leases.get(number)
        if lease is None or lease.host is not None:
            return [Order(OVER, number, host)]
        lease.host, lease.begun, lease.idle_since = host, now, now
        self._progress_at, self._more = now, 0
        return self._give(lease, now)

    def ended(self, number: int, now: float) -> list[Order]:
        """The call in that lease is over."""
        lease = self.leases.get(number)
        if lease is None or lease.call is None:
            return []
        lease.call, lease.idle_since = None, now
        if now - lease.begun > self.span:
            return [self._end(lease), *self._ask(lease.needs)]
        return self._give(lease, now)

    def gone(self, number: int) -> tuple[object, list[Order]]:
        """The engine says that lease has ended; its call, if it had one, ends with it."""
        lease = self.leases.pop(number, None)
        if lease is None:
            return None, []
        return lease.call, self._ask(lease.needs)

    def host_gone(self, host: int) -> tuple[list[object], list[Order]]:
        """A place has been lost, with all that ran there."""
        lost = [lease for lease in self.leases.values() if lease.host == host]
        for lease in lost:
            del self.leases[lease.number]
        orders = [order for needs in {lease.needs for lease in lost} for order in self._ask(needs)]
        return [lease.call for lease in lost if lease.call is not None], orders

    def resized(self, slots: int, lines: Iterable[Needs]) -> list[Order]:
        """The cluster has so many slots now."""
        self.slots = slots
        return [order for needs in list(lines) for order in self._ask(needs)]

    def tick(self, now: float, lines: Iterable[Needs]) -> list[Order]:
        """Rules 3 and 4."""
        orders = []
        for lease in list(self.leases.values()):
            if lease.host is not None and lease.call is None:
                orders += self._give(lease, now)
                if lease.call is None and now - lease.idle_since >= self.linger:
                    orders.append(self._end(lease))
        wanted = [needs for needs in list(lines) if self._waiting(needs)]
        busy = sum(lease.host is not None for lease in self.leases.values())
        if not wanted or busy >= self.slots:
            self._progress_at = now
        elif now - self._progress_at > PATIENCE:
            self._progress_at = now
            self._more = min(self._more + 1, 2 * max(1, self.slots))
        for needs in wanted:
            orders += self._ask(needs)
        for needs in {lease.needs for lease in self.leases.values()} - set(wanted):
            orders += self._drop_surplus(needs)
        return orders

    def next_tick(self, now: float) -> float | None:
        """Seconds until `tick` has something to do; None: not before another event."""
        if not self.leases:
            return None
        idle = [
            lease.idle_since + self.linger - now
            for lease in self.leases.values()
            if lease.host is not None and lease.call is None
        ]
        return max(0.001, min([PATIENCE / 2, *idle]))

    # -- decisions --------------------------------------------------------------------------------

    def _idle(self, needs: Needs) -> list[Lease]:
        return [
            lease
            for lease in self.leases.values()
            if lease.host is not None and lease.call is None and lease.needs == needs
        ]

    def _give(self, lease: Lease, now: float) -> list[Order]:
        """Rule 1."""
        if self.most is not None and self._running() >= self.most:
            return []
        call = self._take(lease.needs, lease.host)
        if call is None:
            return []
        lease.call = call
        return [Order(RUN, lease.number, lease.host, lease.needs, call)]

    def _running(self) -> int:
        return sum(lease.call is not None for lease in self.leases.values())

    def _ask(self, needs: Needs) -> list[Order]:
        """Rule 2."""
        mine = [lease for lease in self.leases.values() if lease.needs == needs]
        busy = sum(lease.call is not None for lease in mine)
        room = max(1, self.slots)
        if self.may_grow:
            room = 2 * room + 2
        if self.most is not None:
            room = min(room, self.most)
        wanted = min(busy + self._waiting(needs), room) + self._more
        orders = []
        for _ in range(len(mine), wanted):
            lease = Lease(next(self._numbers), needs)
            self.leases[lease.number] = lease
            orders.append(Order(ASK, lease.number, None, needs))
        return orders

    def _drop_surplus(self, needs: Needs) -> list[Order]:
        """Nobody waits for what was asked for and has not begun."""
        surplus = [
            lease for lease in self.leases.values() if lease.needs == needs and lease.host is None
        ]
        for lease in surplus:
            del self.leases[lease.number]
        return [Order(DROP, lease.number) for lease in surplus]

    def _end(self, lease: Lease) -> Order:
        del self.leases[lease.number]
        return Order(OVER, lease.number, lease.host)
