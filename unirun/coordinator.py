"""What becomes of every request on a shared object: a pure state machine.

Requests, acknowledgements, deaths and the time come in as method calls; replies come out as a
list.  There is no clock, no thread and no I/O here, and nothing of ours is imported, so every
interleaving can be tried in a test and any engine can host it (`_manager.py` is one host).

    session ──request──▶ ┌─────────────┐ ──▶ (session, request id, status, value) …
            ──cancel───▶ │ Coordinator │
     clock ──expire────▶ │  └ objects  │     status: "ok", "item" (acknowledge it), "act" (run the
     death ──session_lost▶└─────────────┘     action), "timeout", "shutdown", "broken", "deadlock",
  task end ──end_task───▶                    "abandoned", "value", "type", "runtime" or "lost" (no
                                             such object); a request with the id 0 gets no answer

The objects themselves are in `_hosted_queues.py`, `_hosted_locks.py`, `_hosted_barriers.py` and
`_hosted_values.py`.

Rules, whatever the order of events:

 1. A request is answered exactly once; never after it was cancelled or its session was lost.
 2. No request waits past its deadline: `expire` answers it.  With the deadline NOW it never waits.
 3. Requests that wait for the same thing are served in the order in which they came.
 4. An item handed out is *delivered* once its request is acknowledged, and never leaves again.
    If the session is lost, or the request cancelled, before that, it goes back to where it would
    be had the get never happened (the front, in a FIFO queue); for that long a bounded queue may
    hold more than `maxsize`.  So an item is delivered at most once, and lost only with its getter.
 5. The waits of a lost session are withdrawn.  What it put stays; what it waited to put does not.
 6. A barrier breaks when a party times out or is lost, and when the party that runs the action
    fails, is lost or gives up.  Any other party that is cancelled just leaves, as in threading.
    A session that has said that a barrier needs it counts as a party until it takes that back.
 7. Shut-down is that of Python 3.13: puts end at once, gets once the queue is empty; an immediate
    one empties it and counts every item as done, one that comes back later (rule 4) included.
 8. Items are opaque bytes.  A priority travels beside its item: int, float, str, bytes or tuples
    of these.  Equal priorities leave in the order in which they came.
 9. A request that makes no sense is answered with its error and changes nothing.
10. Whoever acquired a lock is its owner, whoever releases it.  When its owner is lost, the lock is
    released, and is `abandoned` until the next owner has released it.  Who asked to be told so
    is answered "abandoned" instead of being given such a lock.
11. Permits of a lost session come back, as far as a semaphore then has no more than at first:
    a semaphore that limits stays whole, one that counts (from 0) does not count twice.  What is
    released for others is taken off the account of who has held permits longest.
12. An acquire that is cancelled after its answer has not happened, until its session's next
    request shows that the answer was read.
13. No wait is left in a circle of two or more sessions, each waiting, with no deadline, for a lock
    that the next one owns: one of them is answered "deadlock".  It is the one that closed the
    circle, unless that has to get a lock back after a wait, and another one has not.  Who waits
    for a plain lock of its own is in no circle: anybody may release it.
14. What a task has acquired and still owns at its end is released, as often as it acquired it.
    That neither makes a lock abandoned nor ends its being so.
15. A notification whose receiver is lost or gives up before it went on goes to the next.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, Final, TypeAlias

from unirun._deadlocks import circle_of, describe

__all__ = ["NOW", "Coordinator", "Reply", "Request", "SharedObject"]

Session: TypeAlias = Hashable
Reply: TypeAlias = tuple[Any, int, str, Any]  # session, request id, status, value

NOW: Final = 0.0
"""The deadline of a request that does not wait; any other is a time on the host's clock."""


class Request:
    """One request, for as long as something may still become of it."""

    __slots__ = (
        *("blocks", "deadline", "detail", "held", "id", "session", "state", "subject", "timed"),
        "who",
    )

    def __init__(
        self, session: Session, request_id: int, subject: SharedObject, deadline: float | None
    ) -> None:
        self.session = session
        self.id = request_id
        self.subject = subject
        self.deadline = deadline
        self.state = "open"  # then "kept" (answered, not settled), "answered" or "gone"
        self.timed = False  # whether it waits in the heap of deadlines
        self.held: Any = None  # items handed out with the answer (rule 4)
        self.detail: Any = None  # what its object has to remember of it
        self.blocks = True  # its session does nothing else: no signal handler has asked since
        self.who = ""  # its sender, for people


class Coordinator:
    """All shared objects of one host, and everything anybody waits for."""

    def __init__(self, kinds: Kinds, first_id: int = 1) -> None:
        self._kinds = kinds
        self._ids = count(first_id)
        self._objects: dict[int, SharedObject] = {}
        # Requests that wait or are kept, by session: what a death has to undo.
        self._registered: dict[Session, dict[int, Request]] = {}
        self._deadlines: list[tuple[float, int, Request]] = []  # a heap; settled ones go lazily
        self._order = count()
        self._timed = 0  # requests in `_deadlines` that still wait
        self._holdings: dict[Session, dict[SharedObject, None]] = {}
        self._grants: dict[Session, Request] = {}  # acquires that may still be undone (rule 12)
        self._replies: list[Reply] = []

    # -- events ---------------------------------------------------------------------------------

    def create(self, kind: str, *params: Any) -> int:
        """Make an object; raises TypeError or ValueError where its original does."""
        subject = self._kinds[kind](self, *params)
        subject.object_id = object_id = self._new_id(subject)
        self._objects[object_id] = subject
        return object_id

    def request(
        self,
        session: Session,
        request_id: int,
        op: str,
        object_id: int,
        args: Sequence[Any] = (),
        deadline: float | None = None,
        late: bool = False,
    ) -> list[Reply]:
        """Serve a request, now or later.

        `late` says that its deadline had passed before it arrived: it is not even tried, since
        whoever sent it may have given up and would not learn that it took effect.
        """
        if session in self._grants:
            self.settle(self._grants.pop(session))
        for waiting in self._registered.get(session, {}).values():
            waiting.blocks = False
        subject = self._objects.get(object_id)
        if subject is None:
            return [(session, request_id, "lost", None)]
        operation = subject.operations.get(op)
        if operation is None:
            return [(session, request_id, "type", f"a {subject.kind} has no operation {op!r}")]
        request = Request(session, request_id, subject, deadline)
        if late:
            subject.timed_out(request)
        else:
            try:
                operation(subject, request, *args)
            except (TypeError, ValueError, RuntimeError) as exc:
                # Rule 9: operations check before they change anything.
                self.answer(request, _ERRORS[type(exc)], str(exc))
        return self._taken()

    def acknowledge(self, session: Session, request_id: int) -> None:
        """That answer has arrived: its items are delivered (rule 4), its lock is taken."""
        request = self._registered.get(session, {}).get(request_id)
        if request is not None and request.held is not None:
            self.settle(request)

    def cancel(self, session: Session, request_id: int) -> list[Reply]:
        """Whoever sent that request has given up, and ignores any answer to it."""
        request = self._registered.get(session, {}).get(request_id)
        if request is not None:
            self.settle(request, "gone")
            request.subject.withdrawn(request)
            request.subject.resume()
        return self._taken()

    def session_lost(self, session: Session) -> list[Reply]:
        """That session is dead; nothing may be sent to it, and nothing comes from it any more."""
        requests = list(self._registered.get(session, {}).values())
        for request in requests:
            self.settle(request, "gone")
        self._registered.pop(session, None)
        self._grants.pop(session, None)
        held = self._holdings.pop(session, {})
        for request in requests:
            request.subject.lost(request)
        for subject in held:
            subject.owner_lost(session)
        for subject in {**held, **{request.subject: None for request in requests}}:
            subject.resume()
        return self._taken()

    def end_task(
        self, session: Session, acquired: Sequence[tuple[int, int]]
    ) -> tuple[list[Reply], list[str]]:
        """A task of that session has ended, and knows of no release of what it acquired how often.

        Returns the names of what was still its own, beside the replies.
        """
        if session in self._grants:
            self.settle(self._grants.pop(session))
        names = []
        for object_id, times in acquired:
            subject = self._objects.get(object_id)
            if subject is not None and subject.left_behind(session, times):
                names.append(subject.name)
        return self._taken(), names

    def spoil(self, object_id: int, reason: str) -> list[Reply]:
        """Whoever waits for that object waits in vain; the host found out."""
        subject = self._objects.get(object_id)
        if subject is not None:
            subject.spoiled(reason)
        return self._taken()

    def remove(self, object_id: int) -> list[Reply]:
        """Nobody refers to that object any more; who waits for it all the same gets "lost"."""
        subject = self._objects.pop(object_id, None)
        if subject is not None:
            for requests in list(self._registered.values()):
                for request in [each for each in requests.values() if each.subject is subject]:
                    self.answer(request, "lost")
                    self.settle(request, "gone")
                    subject.withdrawn(request)
            for held in self._holdings.values():
                held.pop(subject, None)
        return self._taken()

    @property
    def count(self) -> int:
        """How many objects there are; safe without any lock."""
        return len(self._objects)

    def subject(self, object_id: int) -> SharedObject | None:
        """The object of that id, for those that are made of others."""
        return self._objects.get(object_id)

    def expire(self, now: float) -> list[Reply]:
        """End every wait whose deadline is `now` or earlier."""
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if request.timed:
                self._unregister(request)
                request.subject.timed_out(request)
        return self._taken()

    @property
    def has_deadlines(self) -> bool:
        """Whether `expire` may ever have something to do; safe without any lock."""
        return bool(self._deadlines)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do; None while nothing waits for a time."""
        while self._deadlines and not self._deadlines[0][2].timed:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _new_id(self, subject: SharedObject) -> int:
        """An id that no object had before; hosts may put more into it."""
        return next(self._ids)

    # -- what objects order ---------------------------------------------------------------------

    def answer(
        self, request: Request, status: str, value: Any = None, *, keep: bool = False
    ) -> None:
        """Reply to a request; with `keep`, its cancel or its session's death still matters."""
        if request.state != "open":
            return  # gone, or answered before (rule 1)
        if request.id:
            self._replies.append((request.session, request.id, status, value))
        self.settle(request)
        if keep:
            request.state = "kept"
            request.subject.kept += 1
            self._register(request)

    def grant(self, request: Request, value: Any) -> None:
        """Reply to an acquire (rule 12)."""
        request.held = value
        self.answer(request, "ok", value, keep=True)
        if request.state == "kept":
            self._grants[request.session] = request

    def hold(self, session: Session, subject: SharedObject) -> None:
        """From now on the death of that session matters to that object."""
        self._holdings.setdefault(session, {})[subject] = None

    def let_go(self, session: Session, subject: SharedObject) -> None:
        self._holdings.get(session, {}).pop(subject, None)

    def wait_on(self, request: Request, subject: SharedObject) -> None:
        """Let a request wait for another object, and without a deadline."""
        self._unregister(request)
        request.subject, request.deadline = subject, None

    def park(self, request: Request) -> None:
        """Let a request wait, unless it may not (rule 2)."""
        if request.deadline == NOW:
            request.subject.timed_out(request)
            return
        self._register(request)
        if request.deadline is not None and not request.timed:
            heapq.heappush(self._deadlines, (request.deadline, next(self._order), request))
            request.timed = True
            self._timed += 1

    def refuse_circles(self, request: Request) -> None:
        """Keep rule 13, now that this request waits for its subject."""
        circle = circle_of(request, self._next_wait)
        if not circle:
            return
        free = [each for each in circle if not each.subject.has_to_return(each)]
        victim = free[0] if free else request
        at = circle.index(victim)
        waits = [(each.who, each.subject.name) for each in circle[at:] + circle[:at]]
        victim.subject.refused(victim, describe(waits))
        victim.subject.resume()

    def _next_wait(self, request: Request) -> Request | None:
        """How the session waits that would have to act before that request can be served."""
        owner = request.subject.owner
        if request.deadline is not None or owner is None or owner == request.session:
            return None
        for each in self._registered.get(owner, {}).values():
            if each.state == "open" and each.blocks:
                return each
        return None

    def settle(self, request: Request, state: str = "answered") -> None:
        """Nothing can become of that request any more."""
        self._unregister(request)
        if request.state == "kept":
            request.subject.kept -= 1
        request.state = state

    def _register(self, request: Request) -> None:
        self._registered.setdefault(request.session, {})[request.id] = request

    def _unregister(self, request: Request) -> None:
        self._registered.get(request.session, {}).pop(request.id, None)
        if request.timed:
            request.timed = False
            self._timed -= 1
            self._sweep_deadlines()

    def _sweep_deadlines(self) -> None:
        # A heap cannot drop from its middle, and a program that polls with long time-outs would
        # fill it with settled requests.
        if len(self._deadlines) > 64 + 2 * self._timed:
            self._deadlines = [entry for entry in self._deadlines if entry[2].timed]
            heapq.heapify(self._deadlines)

    def _taken(self) -> list[Reply]:
        replies, self._replies = self._replies, []
        return replies


class SharedObject:
    """What every kind of object has in common; its subclasses keep the rules."""

    kind: str
    operations: ClassVar[Mapping[str, Callable[..., None]]]
    object_id = 0
    owner: Session | None = None
    """The one session that can end a wait for this object; None where others can, too."""
    kept = 0
    """How many of its requests are answered and not settled."""
    made_of: tuple[SharedObject, ...] = ()
    """The objects that its operations act upon, beside itself."""
    apart: ClassVar[frozenset[str]] = frozenset()
    """Operations that have nothing to do with what `hand_over` hands over."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._answer = coordinator.answer
        self._park = coordinator.park

    @property
    def name(self) -> str:
        """For people; the number is the end of the one in the `repr` of its handles."""
        return f"{self.kind} #{self.object_id & 0xFFFFF:x}"

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def timed_out(self, request: Request) -> None:
        """The deadline of a request that waits, or was about to, has passed: answer it."""
        raise AssertionError(f"a {self.kind} has nothing to wait for")

    def withdrawn(self, request: Request) -> None:
        """Nobody waits for that request any more, or for the items handed out with it.

        It may be one of several of a dead session: serve nobody before `resume`.
        """

    def lost(self, request: Request) -> None:
        """The session of that request is dead."""
        self.withdrawn(request)

    def owner_lost(self, session: Session) -> None:
        """A session that holds something of this object is dead; serve nobody before `resume`."""

    def left_behind(self, session: Session, times: int) -> bool:
        """A task of that session acquired it so often, and has ended; False if it is not its."""
        return False

    def has_to_return(self, request: Request) -> bool:
        """Whether that request would leave its sender without what it must go on with."""
        return False

    def refused(self, request: Request, why: str) -> None:
        """That request, which waits, is to be answered "deadlock"."""
        raise AssertionError(f"nobody owns a {self.kind}")

    def spoiled(self, reason: str) -> None:
        """Whoever waits waits in vain, for that reason."""

    def resume(self) -> None:
        """Something was withdrawn or lost: see who can go on now."""

    def take_over(self, *state: Any) -> None:
        """Its state was kept by the host, and is what that says; nobody waits for it."""
        raise AssertionError(f"a {self.kind} is never elsewhere")

    def hand_over(self) -> Any:
        """Its state, which the host keeps from now on; None while there is more to it than that."""
        return None


_ERRORS: Final[Mapping[type[Exception], str]] = {
    TypeError: "type",
    ValueError: "value",
    RuntimeError: "runtime",
}

Kinds: TypeAlias = Mapping[str, Callable[..., SharedObject]]
"""What a coordinator can make: the name of a kind, and who makes one, given the coordinator."""
