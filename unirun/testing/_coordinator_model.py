"""Shared objects as one would explain them, to compare the coordinator with.

Everybody who waits stands in a line, and after everything that happens all lines are looked at
until nothing moves any more.  Nothing here is fast, and nothing is remembered that could be found.
"""

from dataclasses import dataclass, field
from typing import Any

Replies = list[tuple[str, int, str, Any]]


@dataclass(eq=False)
class Wait:
    """One request in one line."""

    session: str
    id: int
    place: str  # the object in whose line it stands
    since: int
    deadline: float | None
    depth: int = 1
    value: bool = True
    raises: bool = False
    returns: bool = False  # to a lock, from a wait on a condition
    condition: str | None = None
    item: bytes | None = None  # of a put


@dataclass
class Thing:
    """An object; what of this it needs depends on its kind."""

    kind: str
    number: int = 0  # of permits, parties or places
    lock: str = ""  # of a condition
    owner: str | None = None
    depth: int = 0
    abandoned: bool = False
    saved: dict[str, int] = field(default_factory=dict)
    free: int = 0
    permits: dict[str, int] = field(default_factory=dict)
    flag: bool = False  # an event is set, a barrier is broken
    needed: dict[str, int] = field(default_factory=dict)
    items: list[tuple[int, bytes]] = field(default_factory=list)  # numbered as they came in

    @property
    def is_lock(self) -> bool:
        return self.kind in ("Lock", "RLock")


class Model:
    """What should happen."""

    def __init__(self, things: dict[str, Thing]) -> None:
        self.things = things
        self.waits: list[Wait] = []
        self.unread: dict[str, Wait] = {}  # the acquire whose answer has not shown its being read
        self.handed: dict[tuple[str, int], tuple[str, tuple[int, bytes]]] = {}  # by its get
        self.to_notify: list[str] = []
        self.seq = 0
        self.replies: Replies = []

    # -- events -----------------------------------------------------------------------------------

    def ask(self, session: str, request: int, op: str, name: str, args: Any, when: Any) -> Replies:
        self.unread.pop(session, None)
        self.seq += 1
        wait = Wait(session, request, name, self.seq, when)
        getattr(self, f"_{self.things[name].kind.lower()}_{op}")(self.things[name], wait, *args)
        return self._look()

    def cancel(self, session: str, request: int) -> Replies:
        for wait in [each for each in self.waits if each.session == session]:
            if wait.id == request:
                self._leave(wait)
        wait_read = self.unread.get(session)
        if wait_read is not None and wait_read.id == request:
            self._undo(self.unread.pop(session))
        self._put_back([(session, request)])
        return self._look()

    def acknowledge(self, session: str, request: int) -> None:
        self.handed.pop((session, request), None)

    def die(self, session: str) -> Replies:
        for wait in [each for each in self.waits if each.session == session]:
            self._leave(wait)
            if self.things[wait.place].kind == "Barrier":
                self._break(wait.place)
        self._put_back([get for get in self.handed if get[0] == session])
        unread = self.unread.pop(session, None)
        if unread is not None and unread.condition and unread.value:
            self.to_notify.append(unread.condition)
        for name, thing in self.things.items():
            thing.saved.pop(session, None)
            if thing.is_lock and thing.owner == session:
                thing.owner, thing.depth, thing.abandoned = None, 0, True
            back = thing.permits.pop(session, 0)
            thing.free = max(thing.free, min(thing.number, thing.free + back))
            if thing.needed.pop(session, 0):
                self._break(name)
        return self._look()

    def end_task(self, session: str, acquired: dict[str, int]) -> tuple[Replies, list[str]]:
        self.unread.pop(session, None)
        left = []
        for name, times in acquired.items():
            thing = self.things[name]
            if thing.owner == session:
                left.append(name)
                thing.depth = max(0, thing.depth - times)
                thing.owner = session if thing.depth else None
        return self._look(), left

    def remove(self, name: str) -> Replies:
        for wait in [each for each in self.waits if each.place == name]:
            self.waits.remove(wait)
            self._reply(wait, "lost")
        self.unread = {who: wait for who, wait in self.unread.items() if wait.place != name}
        self.handed = {get: what for get, what in self.handed.items() if what[0] != name}
        del self.things[name]
        return self._look()

    def tick(self, now: float) -> Replies:
        late = [each for each in self.waits if each.deadline is not None and each.deadline <= now]
        replies: Replies = []
        for wait in sorted(late, key=lambda each: (each.deadline, each.since)):
            if wait in self.waits:  # not broken with another
                self._give_up(wait)
                replies += self._look()
        return replies

    # -- what they do -----------------------------------------------------------------------------

    def _lock_acquire(self, lock: Thing, wait: Wait, raises: bool = False) -> None:
        wait.raises = raises
        if lock.kind == "RLock" and lock.owner == wait.session:
            self._own(lock, wait)
        else:
            self._stand(wait)

    def _lock_reacquire(self, lock: Thing, wait: Wait, raises: bool = False) -> None:
        if lock.owner == wait.session:
            self._reply(wait, "ok", True)
            return
        wait.depth, wait.returns = lock.saved.get(wait.session, 1), True
        self._lock_acquire(lock, wait, raises)

    def _lock_release(self, lock: Thing, wait: Wait) -> None:
        if lock.depth == 0 or (lock.kind == "RLock" and lock.owner != wait.session):
            self._reply(wait, "runtime")
            return
        lock.depth -= 1
        if lock.depth == 0:
            lock.owner, lock.abandoned = None, False
        self._reply(wait, "ok")

    _rlock_acquire, _rlock_reacquire, _rlock_release = _lock_acquire, _lock_reacquire, _lock_release

    def _condition_wait(self, condition: Thing, wait: Wait, raises: bool = False) -> None:
        lock = self.things[condition.lock]
        if not self._has(lock, wait.session):
            self._reply(wait, "runtime")
            return
        wait.raises, wait.returns, wait.condition = raises, True, wait.place
        lock.saved[wait.session] = wait.depth = lock.depth
        lock.owner, lock.depth = None, 0
        self._look(answer=False)  # others go on before it can time out
        self._stand(wait)

    def _condition_notify(self, condition: Thing, wait: Wait, number: int | None) -> None:
        if not self._has(self.things[condition.lock], wait.session):
            self._reply(wait, "runtime")
            return
        waiting = [each for each in self.waits if each.place == wait.place]
        for each in waiting[:number]:
            self._go_for_lock(each, True)
        self._reply(wait, "ok")

    def _has(self, lock: Thing, session: str) -> bool:
        return lock.depth > 0 and (lock.kind == "Lock" or lock.owner == session)

    def _semaphore_acquire(self, _: Thing, wait: Wait) -> None:
        self._stand(wait)

    def _semaphore_release(self, semaphore: Thing, wait: Wait, number: int = 1) -> None:
        if semaphore.kind == "BoundedSemaphore" and semaphore.free + number > semaphore.number:
            self._reply(wait, "value")
            return
        semaphore.free += number
        own = semaphore.permits.pop(wait.session, 0) - number
        if own > 0:
            semaphore.permits[wait.session] = own
        while sum(semaphore.permits.values()) > max(0, semaphore.number - semaphore.free):
            first = next(iter(semaphore.permits))
            rest = semaphore.permits.pop(first) - 1
            if rest:
                semaphore.permits = {first: rest, **semaphore.permits}
        self._reply(wait, "ok")

    _boundedsemaphore_acquire = _semaphore_acquire
    _boundedsemaphore_release = _semaphore_release

    def _event_set(self, event: Thing, wait: Wait) -> None:
        event.flag = True
        self._look(answer=False)
        self._reply(wait, "ok")

    def _event_clear(self, event: Thing, wait: Wait) -> None:
        event.flag = False
        self._reply(wait, "ok")

    def _event_wait(self, _: Thing, wait: Wait) -> None:
        self._stand(wait)

    def _barrier_wait(self, barrier: Thing, wait: Wait) -> None:
        if barrier.flag:
            self._reply(wait, "broken")
        else:
            self._stand(wait)

    def _barrier_abort(self, _: Thing, wait: Wait) -> None:
        self._break(wait.place)
        self._reply(wait, "ok")

    def _barrier_reset(self, barrier: Thing, wait: Wait) -> None:
        self._break(wait.place)
        barrier.flag = False
        self._reply(wait, "ok")

    def _barrier_need(self, barrier: Thing, wait: Wait) -> None:
        barrier.needed[wait.session] = barrier.needed.get(wait.session, 0) + 1
        self._reply(wait, "ok")

    def _barrier_unneed(self, barrier: Thing, wait: Wait) -> None:
        barrier.needed[wait.session] = max(0, barrier.needed.get(wait.session, 0) - 1)
        self._reply(wait, "ok")

    def _queue_put(self, _: Thing, wait: Wait, item: bytes) -> None:
        wait.item = item
        self._stand(wait)

    def _queue_get(self, _: Thing, wait: Wait) -> None:
        self._stand(wait)

    # -- lines ------------------------------------------------------------------------------------

    def _reply(self, wait: Wait, status: str, value: Any = None) -> None:
        self.replies.append((wait.session, wait.id, status, value))

    def _stand(self, wait: Wait) -> None:
        self.waits.append(wait)
        if wait.deadline == 0.0:  # does not wait, unless it is served at once
            self._look(answer=False)
            if wait in self.waits:
                self._give_up(wait)

    def _look(self, answer: bool = True) -> Replies:
        while any(self._serve(wait) for wait in list(self.waits)) or self._notify_again():
            continue
        while (circle := self._circle()) is not None:
            self._refuse(circle)
            self._look(answer=False)
        if not answer:
            return []
        replies, self.replies = self.replies, []
        return replies

    def _serve(self, wait: Wait) -> bool:
        """Whether that one could go on."""
        thing = self.things[wait.place]
        line = [each for each in self.waits if each.place == wait.place]
        if thing.is_lock:
            goes = wait is line[0] and thing.depth == 0
            if goes:
                self.waits.remove(wait)
                self._own(thing, wait)
        elif thing.kind in ("Semaphore", "BoundedSemaphore"):
            goes = wait is line[0] and thing.free > 0
            if goes:
                self.waits.remove(wait)
                thing.free -= 1
                thing.permits[wait.session] = thing.permits.get(wait.session, 0) + 1
                self._grant(wait)
        elif thing.kind == "Event":
            goes = thing.flag
            if goes:
                self.waits.remove(wait)
                self._reply(wait, "ok", True)
        elif thing.kind == "Barrier":
            goes = len(line) == thing.number
            for index, each in enumerate(line if goes else []):
                self.waits.remove(each)
                self._reply(each, "ok", index)
        elif thing.kind == "Queue":
            goes = self._serve_queue(thing, wait, line)
        else:
            goes = False
        return goes

    def _serve_queue(self, queue: Thing, wait: Wait, line: list[Wait]) -> bool:
        puts = wait.item is not None
        first = next(each for each in line if (each.item is not None) == puts)
        room = not 0 < queue.number <= len(queue.items) if puts else bool(queue.items)
        if wait is not first or not room:
            return False
        self.waits.remove(wait)
        if wait.item is not None:
            self.seq += 1
            queue.items.append((self.seq, wait.item))
            self._reply(wait, "ok")
        else:
            taken = queue.items.pop(0)
            self.handed[wait.session, wait.id] = wait.place, taken
            self._reply(wait, "item", taken[1])
        return True

    def _put_back(self, gets: list[tuple[str, int]]) -> None:
        """What these got and nobody knows to have arrived."""
        for get in gets:
            name, taken = self.handed.pop(get, ("", (0, b"")))
            if name:
                self.things[name].items.append(taken)
                self.things[name].items.sort()

    def _own(self, lock: Thing, wait: Wait) -> None:
        given_up = wait.depth if wait.returns else 0
        if lock.abandoned and wait.raises and lock.depth == 0:
            self._reply(wait, "abandoned", given_up)
        else:
            lock.owner = wait.session
            lock.depth += wait.depth
            self._grant(wait)
        lock.saved.pop(wait.session, None)

    def _grant(self, wait: Wait) -> None:
        self.unread[wait.session] = wait
        self._reply(wait, "ok", wait.value)

    def _undo(self, wait: Wait) -> None:
        """An acquire that was granted has not happened."""
        thing = self.things[wait.place]
        if thing.is_lock:
            if thing.owner == wait.session:
                thing.depth -= wait.depth
                thing.owner = thing.owner if thing.depth else None
            if wait.returns:
                thing.saved[wait.session] = wait.depth
            if wait.condition and wait.value:
                self.to_notify.append(wait.condition)
        elif thing.kind == "Semaphore" or thing.free < thing.number:
            thing.free += 1
            left = thing.permits.pop(wait.session, 0) - 1
            if left > 0:
                thing.permits[wait.session] = left

    def _go_for_lock(self, wait: Wait, notified: bool) -> None:
        assert wait.condition is not None
        if wait in self.waits:
            self.waits.remove(wait)
        wait.place, wait.value = self.things[wait.condition].lock, notified
        wait.deadline = None
        self.seq += 1
        wait.since = self.seq
        self.waits.append(wait)

    def _notify_again(self) -> bool:
        """A notification was lost with whom it was for: the next one gets it."""
        if not self.to_notify:
            return False
        condition = self.to_notify.pop()
        for wait in self.waits:
            if wait.place == condition:
                self._go_for_lock(wait, True)
                break
        return True

    def _leave(self, wait: Wait) -> None:
        self.waits.remove(wait)
        if self.things[wait.place].is_lock and wait.condition and wait.value:
            self.to_notify.append(wait.condition)

    def _give_up(self, wait: Wait) -> None:
        kind = self.things[wait.place].kind
        if kind == "Condition":
            self._go_for_lock(wait, False)
            return
        self.waits.remove(wait)
        if kind == "Barrier":
            self._break(wait.place)
        self._reply(wait, "broken" if kind == "Barrier" else "timeout")

    def _break(self, name: str) -> None:
        self.things[name].flag = True
        for wait in [each for each in self.waits if each.place == name]:
            self.waits.remove(wait)
            self._reply(wait, "broken")

    # -- circles ----------------------------------------------------------------------------------

    def _circle(self) -> list[Wait] | None:
        """Any circle there is, beginning with its newest wait."""
        for start in sorted(self.waits, key=lambda each: -each.since):
            path = [start]
            while (following := self._next(path[-1])) is not None and following not in path:
                path.append(following)
            if following is start and len(path) > 1:
                return path
        return None

    def _next(self, wait: Wait) -> Wait | None:
        owner = self.things[wait.place].owner
        if wait.deadline is not None or owner is None or owner == wait.session:
            return None
        return next((each for each in self.waits if each.session == owner), None)

    def _refuse(self, circle: list[Wait]) -> None:
        victim = next((each for each in circle if not each.returns), circle[0])
        self._leave(victim)
        self.things[victim.place].saved.pop(victim.session, None)
        self._reply(victim, "deadlock", victim.depth if victim.returns else 0)
