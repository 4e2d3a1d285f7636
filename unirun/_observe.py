"""What happens to calls and to workers, told to whoever watches: traces, spans, `Executor.on`.

    submit, pools, workers, ends of futures ──> `watchers` ──> store it; have a thread see to it

1. Usually nobody watches. So every place that tells looks at `watchers` first, and goes on.
2. What happens is told where it happens, perhaps under a lock or in a thread that others wait for.
   So a watcher only stores the event, as `deque.append` does: it takes no lock, runs no code of the
   user, and does not raise. `_events.Delivery` is one that has a thread do the rest.
3. The events of one call come in the order in which they happened; its end is told before whoever
   waits for it goes on.
4. What happens in worker processes is told to the process that the workers belong to.
5. Code that is seldom run, amid calls of 1 ms say, costs many times what it costs in a loop. So a
   watcher that has time, as a trace has, takes submits and ends as rows: what must be read at
   once, in a tuple, of which `known_of` makes later what an event knows.

Light by rule: a worker process that has been told that somebody watches imports it.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from _thread import get_ident
from time import monotonic

from unirun import _context
from unirun._call_event import CALLS, ENDS, KINDS, WORKERS, CallEvent
from unirun._errors import QueueTimeout, TaskMemoryExceeded, TaskTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeAlias

    Row: TypeAlias = tuple[Any, ...]

_FINISHED = "FINISHED"  # as `concurrent.futures` calls it, which no worker process imports

__all__ = [
    "CALLS",
    "ENDS",
    "KINDS",
    "WORKERS",
    "CallEvent",
    "Event",
    "Tally",
    "Watcher",
    "ended",
    "forward",
    "heard",
    "held",
    "known_of",
    "next_number",
    "number_of",
    "piecewise",
    "pools",
    "retried",
    "started",
    "submitted",
    "tell",
    "watch",
    "watchers",
]

_AS_ROWS = frozenset(("submitted", *ENDS))


Event = CallEvent  # as it is called in here; `unirun.Event` is what threads wait for


class Tally:
    """How many calls of one backend have ended badly, or were run again."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards the counts; taken only where a call has failed
        self._counts = dict.fromkeys(("failed", "timed_out", "cancelled", "retried"), 0)

    def add(self, what: str) -> None:
        if what in self._counts:
            with self._lock:
                self._counts[what] += 1

    def counted(self) -> dict[str, int]:
        return {**self._counts}


class Watcher:
    """Somebody who watches; `see(event)`, and `keep(row)` if there is one, keep rule 2."""

    __slots__ = ("keep", "kinds", "lost", "see")

    def __init__(
        self,
        see: Callable[[Event], object],
        kinds: Iterable[str],
        keep: Callable[[Row], object] | None = None,
    ) -> None:
        self.see = see
        self.kinds = frozenset(kinds)
        self.keep = keep
        self.lost = 0  # events and rows that could not be taken


watchers: tuple[Watcher, ...] = ()
"""Read it as `_observe.watchers`: it is replaced, never changed."""
wanted: frozenset[str] = frozenset()
"""The kinds of events that some watcher is told of, but for rows."""
keepers: tuple[Watcher, ...] = ()
"""Those watchers that take rows."""
pools: weakref.WeakSet[Any] = weakref.WeakSet()
"""Backends whose `be_watched(bool)` is called when the first watcher comes, and when the last one
goes; those that have worker processes have a `has_worker(pid)`, too."""

# Guards the replacing of the three above, and the telling of `pools`. Reentrant, for a garbage
# collection that ends a watcher.
_lock = threading.RLock()


def watch(
    see: Callable[[Event], object],
    kinds: Iterable[str] = KINDS,
    keep: Callable[[Row], object] | None = None,
) -> Callable[[], None]:
    """Have `see(event)` called for events of these kinds; returns what ends it.

    With `keep`, which see at rule 5, `see` is told neither of submits nor of ends but of those
    that were passed on by worker processes.
    """
    watcher = Watcher(see, kinds, keep)
    _change(lambda now: (*now, watcher))
    return lambda: _change(lambda now: tuple([each for each in now if each is not watcher]))


def _change(make: Callable[[tuple[Watcher, ...]], tuple[Watcher, ...]]) -> None:
    global watchers, wanted, keepers
    with _lock:
        while True:
            before = watchers
            now = make(before)
            kinds: frozenset[str] = frozenset().union(*[_events_for(each) for each in now])
            keeping = tuple([each for each in now if each.keep is not None])
            if watchers is before:  # else it was changed amid this, by this very thread
                watchers, wanted, keepers = now, kinds, keeping
                break
        if bool(before) != bool(now):
            for pool in _living_pools():
                pool.be_watched(bool(watchers))


def _events_for(watcher: Watcher) -> frozenset[str]:
    return watcher.kinds if watcher.keep is None else watcher.kinds - _AS_ROWS


def _living_pools() -> list[Any]:
    """Others may be made meanwhile, by any thread."""
    while True:
        try:
            return list(pools)
        except RuntimeError:  # one came this moment
            continue


def tell(what: str, at: float | None = None, *, future: Any = None, **known: Any) -> None:
    """Tell all who watch; what is known is stored in the event."""
    if what in wanted:
        known["what"] = what
        known["at"] = monotonic() if at is None else at
        _send(Event(known, future))


def _send(event: Event, *, is_row: bool = False) -> None:
    """`is_row`: those who keep rows have it."""
    for watcher in watchers:
        if event.what in watcher.kinds and not (is_row and watcher.keep is not None):
            try:
                watcher.see(event)
            except Exception:  # noqa: BLE001  # no memory, say: the pool that tells goes on
                watcher.lost += 1


def _keep(row: Row) -> None:
    for watcher in keepers:
        try:
            watcher.keep(row)  # type: ignore[misc]  # keepers have one
        except Exception:  # noqa: BLE001  # as above
            watcher.lost += 1


# -- calls ----------------------------------------------------------------------------------------


def _first_number() -> int:
    """Other processes of the program have other numbers."""
    return (os.getpid() << 24) + 1 if _context.in_worker_process else 1


_numbers = itertools.count(_first_number())
_numbering = threading.RLock()


def next_number() -> int:
    """A number for a call, one in the whole program."""
    return next(_numbers)


def _number_anew_in_forked_child() -> None:
    global _numbers, _lock, _numbering, watchers, wanted, keepers, _forwarding
    _numbers = itertools.count((os.getpid() << 24) + 1)
    _lock, _numbering = threading.RLock(), threading.RLock()
    watchers, wanted, keepers = (), frozenset(), ()  # who watched has stayed in the parent
    _forwarding = None
    pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_anew_in_forked_child)


def number_of(future: Any) -> int:
    """The number of the call of that future; the same one each time."""
    number = getattr(future, "number", None)
    if number is None:
        with _numbering:  # one number, whoever asks first
            number = getattr(future, "number", None)
            if number is None:
                number = future.number = next_number()
    return int(number)


def call_of(future: Any, options: Any) -> int:
    """As events tell it: the same for all attempts."""
    first = getattr(options, "call", None)
    if first is None:
        first = getattr(future, "call_id", None)  # where `number` is something else
        if first is None:
            first = getattr(future, "number", None)
    return number_of(future) if first is None else int(first)


def parent() -> int | None:
    """The number of the call that this code runs in."""
    call = _context.running.get()
    if isinstance(call, _context.Unasked):
        return call.context().id
    return None if call is None else call.id


_here = threading.local()
"""`items`: how many items the call has that this thread submits."""


def piecewise(submit: Callable[..., Any], items: int) -> Callable[..., Any]:
    """As `submit`, of a piece of a map with so many items."""

    def told(*args: Any, **kwargs: Any) -> Any:
        _here.items = items
        try:
            return submit(*args, **kwargs)
        finally:
            _here.items = None

    return told


def submitted(future: Any, name: str | Callable[[], str], options: Any, **known: Any) -> None:
    """A backend has taken that call; told before its body can begin."""
    call = call_of(future, options)  # before others can ask
    items = getattr(_here, "items", None)
    if items is not None:
        future.items = items
    if "parent" not in known:
        known["parent"] = parent()
    if keepers:
        row = monotonic(), known.get("packing"), known["parent"], get_ident()
        _keep(("submitted", call, options.attempt, *row))
    if "submitted" not in wanted:
        return
    chosen, backend = options.chosen, future._backend
    known["what"] = "submitted"
    known["at"] = monotonic()
    known["call"] = call
    task = options.name or (chosen and chosen.function)
    known["task"] = task or (name if isinstance(name, str) else name()) or None
    known["kind"] = options.kind if chosen is None else chosen.decision.kind
    known["backend"] = backend.name
    known["attempt"] = options.attempt
    known["items"] = items
    known["source"] = source_of(backend)
    _send(Event(known, future), is_row=True)


def source_of(backend: Any) -> int:
    return getattr(backend, "source", None) or id(backend)


def held(future: Any, options: Any) -> None:
    """A call waits for its turn in a view before it is submitted to its backend."""
    chosen = options.chosen
    tell(
        "held",
        call=options.call,
        parent=parent(),
        task=options.name or (chosen and chosen.function),
        kind=_kind(options),
        backend=future._backend.name,
        attempt=options.attempt,
        source=source_of(future._backend),
        future=future,
    )


def started(future: Any, at: float | None = None) -> None:
    """Its body begins now, or began then."""
    if "started" in wanted:
        known = _known("started", future, future._tell_info())
        tell(at=at, future=future, **{key: known[key] for key in _AT_START if key in known})


def retried(attempt: Any) -> None:
    """That attempt has failed, and there will be another one."""
    _count(attempt, "retried")
    if "retried" in wanted:
        _send(Event(_known("retried", attempt, attempt._tell_info()), attempt))


_AT_START = (
    *("what", "call", "task", "kind", "backend", "worker", "pid", "machine", "attempt", "source"),
)


def ended(future: Any) -> None:
    """That future has ended this moment."""
    if not future._observed:
        return
    what = how(future)
    if what != "finished":
        _count(future, what)
    if keepers:
        _keep((*_facts(what, future), get_ident(), *future._tell_later()))
    if what not in wanted and "started" not in wanted:
        return
    told = future._tell_info()
    if not told.pop("told_begun", True) and told.get("begun") is not None:
        started(future, told["begun"])
    if what in wanted:
        _send(Event(_known(what, future, told), future), is_row=True)


def _count(future: Any, what: str) -> None:
    tally: Tally | None = getattr(future._backend, "tally", None)
    if tally is not None:
        tally.add(what)


def how(future: Any) -> str:
    """What the end of a future is called."""
    error = future._exception
    if error is None and future._state == _FINISHED:
        return "finished"
    if future._state != _FINISHED:
        return "cancelled" if error is None else "killed"
    if isinstance(error, TaskTimeout | QueueTimeout):
        return "timed_out"
    if isinstance(error, TaskMemoryExceeded):
        return "killed"
    # Loaded by whoever raised one of these; while another thread loads it, nobody has yet.
    crash: Any = getattr(sys.modules.get("unirun._broken"), "WorkerCrashed", ())
    return "crashed" if isinstance(error, crash) else "failed"


def _facts(what: str, future: Any) -> Row:
    """What stands beside that which the future tells."""
    error, backend = future._exception, future._backend
    name = None if error is None else type(error).__name__
    beside = getattr(backend, "name", None), source_of(backend), getattr(future, "items", None)
    return what, monotonic(), call_of(future, None), name, *beside


def _known(what: str, future: Any, told: dict[str, Any]) -> dict[str, Any]:
    """`told` by the future, and what stands beside it."""
    what, at, call, error, backend, source, items = _facts(what, future)
    return _whole(what, at, call, error, backend, source, items, told)


def known_of(row: Row) -> tuple[dict[str, Any], int]:
    """What the event of an end knows, of which this is the row, and in which thread that was."""
    what, at, call, error, backend, source, items, ident, told, parts = row
    return _whole(what, at, call, error, backend, source, items, told(*parts)), ident


def _whole(
    what: str,
    at: float,
    call: int,
    error: str | None,
    backend: str | None,
    source: int,
    items: int | None,
    told: dict[str, Any],
) -> dict[str, Any]:
    """Of all that, which is the event's from now on, as `CallEvent` names it."""
    options = told.pop("options", None)
    function = told.pop("function", None)
    told.pop("told_begun", None)
    told["what"] = what
    told["at"] = at
    told["call"] = call
    if options is not None:  # spelled out: code that is seldom run costs far more than its steps
        chosen = options.chosen
        if options.call is not None:
            told["call"] = options.call
        told["task"] = options.name or (chosen and chosen.function) or function or None
        told["kind"] = options.kind if chosen is None else chosen.decision.kind
        told["attempt"] = options.attempt
    else:
        told["task"] = function or None
    told["backend"] = backend
    told["items"] = items
    told["started"] = told.pop("begun", None)
    told["finished"] = told.pop("ended", None)
    told["source"] = source
    if error is not None:
        told["error"] = error
    return told


# -- rule 4 ---------------------------------------------------------------------------------------

_forwarding: Callable[[], None] | None = None


def forward(on: bool) -> None:
    """In a worker process: pass on what happens here to who watches elsewhere, or do not."""
    global _forwarding
    if on and _forwarding is None:
        _forwarding = watch(_pass_on)
    elif not on and _forwarding is not None:
        stop, _forwarding = _forwarding, None
        stop()


def _pass_on(event: Event) -> None:
    tell_upwards = _context.tell
    if tell_upwards is not None and getattr(event.future, "is_told_here", True):
        tell_upwards("event", 0, event.__dict__)


def heard(origin: Any, value: dict[str, Any]) -> None:
    """A worker process has passed on an event."""
    known = {**value}
    homes = [each for each in _living_pools() if hasattr(each, "has_worker")]
    at_home = (id(each) for each in homes if each.has_worker(origin.pid))
    known["source"] = origin.source or next(at_home, 0)
    _send(Event(known))


def _kind(options: Any) -> str | None:
    chosen = getattr(options, "chosen", None)
    return chosen.decision.kind if chosen is not None else getattr(options, "kind", None)


if _context.in_worker_process and _context.watched:
    forward(on=True)
