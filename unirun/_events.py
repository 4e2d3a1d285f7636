"""`Executor.on`: callbacks for what happens to the calls and workers of one executor.

    _observe ──see──> bounded queue ──> a thread for each executor with callbacks ──> callbacks

1. Callbacks run one after the other, in that thread, in the order in which things happened. None
   runs where it happened: a callback may do what it likes, submit and wait included.
2. What a callback raises is logged, and hurts nobody else.
3. While callbacks are slower than events come, these wait, up to MOST of them; what does not fit in
   is dropped, counted, and said in the log.
4. Nothing here keeps the executor alive. With it, or at its shutdown, all of this ends.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from _queue import SimpleQueue

from unirun import _observe
from unirun._observe import ENDS, KINDS, Event
from unirun._prompt import Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

    from unirun._executor import Executor

__all__ = ["Courier", "Delivery", "Sources", "Subscription", "log", "names_of"]

MOST = 10_000
"""So many events wait for callbacks."""
TOGETHER = 0.002
"""Seconds after the last event before it is looked for the next: to be woken for each costs more
than to handle it."""
PATIENCE = 5.0
"""Seconds to wait for callbacks at the end."""
SAY_AGAIN = 1.0
"""Seconds between two lines about drops."""

_GROUPS = {"all": KINDS, "ended": ENDS}


def names_of(event: str | Iterable[str]) -> frozenset[str]:
    """The kinds of events that are meant; raises ValueError for one that does not exist."""
    names = (event,) if isinstance(event, str) else tuple(event)
    found: set[str] = set()
    for name in names:
        if name in _GROUPS:
            found.update(_GROUPS[name])
        elif name in KINDS:
            found.add(name)
        else:
            raise ValueError(_unknown(name))
    return frozenset(found)


def _unknown(name: object) -> str:
    from difflib import get_close_matches

    known = [*KINDS, *_GROUPS]
    close = get_close_matches(str(name), known, 1)
    meant = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(known)}"
    return f"there is no event {name!r}; {meant}"


class Subscription:
    """A callback of `Executor.on`: `close()` takes it off, as does leaving a `with` block of it."""

    def __init__(
        self, delivery: Delivery, kinds: frozenset[str], callback: Callable[[Event], object]
    ) -> None:
        self._delivery = delivery
        self.kinds = kinds
        self.callback = callback
        self.failures = 0
        """How often the callback has raised something."""

    @property
    def dropped(self) -> int:
        """How many events of this executor its callbacks were too slow for."""
        return self._delivery.courier.dropped

    def close(self) -> None:
        """Call back no more. What has happened before is still told, for which this waits, but in
        a callback; not longer than 5 s."""
        self._delivery.courier.flush()
        self._delivery.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


Subscription.__module__ = "unirun"


class Courier:
    """A thread that is handed things by `put`, from anywhere, and does `handle` with each in turn.

    Rule 3. Whoever makes one closes it.
    """

    def __init__(self, handle: Callable[[Any], object], name: str) -> None:
        self._handle = handle
        self._pid = os.getpid()
        self._queue: SimpleQueue[Any] = SimpleQueue()  # (item,); else to be called; None: the end
        self._lock = threading.RLock()  # guards `dropped`; an event may come from a __del__
        self.dropped: int = 0
        self._said = 0
        self._said_at = 0.0
        self._closed = False
        self._thread = Thread(self._run, name)

    def start(self) -> None:
        """Once; things may be put before."""
        self._thread.start()

    def put(self, item: object) -> None:
        """Keeps rule 2 of `_observe`: the queue takes no lock of ours."""
        if self._queue.qsize() < MOST:
            self._queue.put((item,))
        else:
            with self._lock:
                self.dropped += 1

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until what was put is dealt with; False if that takes longer, or in its thread."""
        if threading.current_thread() is self._thread or os.getpid() != self._pid:
            return False
        done = threading.Event()
        self._queue.put(done.set)
        return self._closed or done.wait(seconds)

    def stop(self) -> None:
        """Deal with what was put, and end."""
        self._queue.put(None)

    def close(self) -> None:
        """As `stop`, and wait for the end, not longer than PATIENCE; not in a forked child."""
        if os.getpid() == self._pid:
            self.stop()
            if threading.current_thread() is not self._thread and self._thread.ident is not None:
                self._thread.ends_within(PATIENCE)

    def _run(self) -> None:
        queue = self._queue
        while (item := queue.get()) is not None:
            if isinstance(item, tuple):
                self._handle(*item)
                if self.dropped > self._said:
                    self._say_drops()
                del item  # it has a future, and that the result
                if queue.empty():
                    time.sleep(TOGETHER)
            else:
                item()
                del item
        self._closed = True

    def _say_drops(self) -> None:
        now = time.monotonic()
        if now - self._said_at >= SAY_AGAIN:
            count, self._said, self._said_at = self.dropped - self._said, self.dropped, now
            _say("warning", "%d events were dropped; what handles them is too slow", count)


class Sources:
    """Which events are of one executor; holds neither that nor its backends (rule 4)."""

    def __init__(self, executor: Executor, when_gone: Callable[[], object]) -> None:
        """`when_gone` is called, from anywhere, when the executor and its backends are gone."""
        self._when_gone = when_gone
        self._executor = weakref.ref(executor, self._gone)
        self._backends: dict[int, weakref.ref[Any]] = {}  # by id, which is the source of an event

    def has(self, event: Event) -> bool:
        return event.source in self._backends or self._is_new(event.source)

    def _is_new(self, source: int) -> bool:
        executor = self._executor()
        if executor is None:
            return False
        if source == id(executor._held._line):
            return True
        for backend in list(executor._backends.values()):
            if id(backend) == source:
                self._backends[source] = weakref.ref(backend, self._gone)
                return True
        return False

    def _gone(self, gone: weakref.ref[Any]) -> None:
        for number, backend in list(self._backends.items()):
            if backend is gone:
                self._backends.pop(number, None)
        if self._executor() is None and not self._backends:
            self._when_gone()


class Delivery:
    """What one executor tells, for its subscriptions; owns the thread that calls them."""

    def __init__(self, executor: Executor, name: str) -> None:
        self._sources = Sources(executor, self.stop)
        self.courier: Courier = Courier(self._hand_over, f"{name}-events")
        # Guards `_subscriptions` (replaced, never changed), and that `_unwatch` is set while there
        # are some. Reentrant: a garbage collection may call `stop`.
        self._lock = threading.RLock()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._unwatch: Callable[[], None] | None = None
        self._begun = False

    def add(self, kinds: frozenset[str], callback: Callable[[Event], object]) -> Subscription:
        subscription = Subscription(self, kinds, callback)
        with self._lock:
            if not self._begun:
                self._begun = True
                self.courier.start()
            self._subscriptions = (*self._subscriptions, subscription)
            self._watch()
        return subscription

    def remove(self, subscription: Subscription) -> None:
        with self._lock:
            left = [each for each in self._subscriptions if each is not subscription]
            self._subscriptions = tuple(left)
            self._watch()

    def _watch(self) -> None:
        """With the lock held: watch for what is subscribed to."""
        before, self._unwatch = self._unwatch, None
        if self._subscriptions:
            kinds = frozenset().union(*[each.kinds for each in self._subscriptions])
            self._unwatch = _observe.watch(self.see, kinds)
        if before is not None:
            before()

    def see(self, event: Event) -> None:
        """As `_observe.Watcher` says."""
        if self._sources.has(event):
            self.courier.put(event)

    def stop(self) -> None:
        """Tell of what has happened, and end; does not wait."""
        with self._lock:
            if self._unwatch is not None:
                self._unwatch()
                self._unwatch = None
        self.courier.stop()

    def close(self) -> None:
        """All has ended: tell of it, and end."""
        self.courier.flush()
        with self._lock:
            self._subscriptions = ()
            self._watch()
        self.courier.close()

    def _hand_over(self, event: Event) -> None:
        for subscription in self._subscriptions:
            if event.what in subscription.kinds:
                try:
                    subscription.callback(event)
                except BaseException:  # noqa: BLE001  # user code; rule 2
                    subscription.failures += 1
                    _say("exception", "a callback for event %r failed", event.what)


def _say(level: str, text: str, *args: object) -> None:
    """To the log; its filters and handlers are the user's, and must not end the thread here."""
    try:
        getattr(log(), level)(text, *args)
    except Exception as exc:  # noqa: BLE001  # user code, as a callback is: rule 2
        _cannot_log(exc)


def _cannot_log(exc: Exception) -> None:
    """Where threads tell what they have failed of: on stderr, unless the program has a hook."""
    what = type(exc), exc, exc.__traceback__, threading.current_thread()
    threading.excepthook(threading.ExceptHookArgs(what))


def log() -> Any:
    import logging

    return logging.getLogger("unirun")
