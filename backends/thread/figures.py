"""What the thread backend knows of its calls in figures."""

from __future__ import annotations

from time import monotonic, thread_time
from typing import TYPE_CHECKING

from unirun import _observe
from unirun.backend import Stats

if TYPE_CHECKING:
    from .backend import ThreadBackend
    from .calls import RunningCall, Worker

__all__ = ["begin", "end", "note_gone", "stats_of"]

LONG = 0.001
"""Seconds from which on a call's processor time is told though nobody watches."""
FRESH = 0.0002
"""Seconds for which what a thread has computed so far need not be asked again."""
BRISK = 0.00002
"""Seconds up to which a call is not worth a look at the clock: those after it with the same plan
are not timed, until its thread has nothing to do or somebody watches."""


def begin(worker: Worker, call: RunningCall) -> None:
    """That call begins, and is to be timed."""
    call.begun = now = monotonic()
    if now - worker.asked_at > FRESH or _observe.watchers:
        worker.computed, worker.asked_at = thread_time(), now
    call.computed = worker.computed
    if "started" in _observe.wanted:
        _observe.started(call.future, now)


def end(worker: Worker, call: RunningCall) -> None:
    """Its body is over; it was timed, unless a call inside of it was."""
    begun: float | None = getattr(call, "begun", None)
    if begun is None:
        return
    call.ended = now = monotonic()
    took = now - begun
    is_brisk = took < BRISK and call.before is None and not _observe.watchers
    worker.brisk = call.options if is_brisk else None
    if took > LONG or _observe.watchers:
        computed = thread_time()
        call.cpu = computed - call.computed
        worker.computed, worker.asked_at = computed, now
    if took > LONG and call.before is None:  # else it is a part of that
        worker.busy += took


def note_gone(pool: ThreadBackend, worker: Worker) -> None:
    """It counts no more; called with the pool's lock held. If it is abandoned, it is in a call."""
    now = monotonic()
    pool.busy_of_gone += _busy(worker, now)
    pool.life_of_gone += now - worker.born


def stats_of(pool: ThreadBackend) -> Stats:
    with pool._lock:
        now = monotonic()
        life = pool.life_of_gone + sum(now - worker.born for worker in pool._workers)
        busy = pool.busy_of_gone + sum(_busy(worker, now) for worker in pool._workers)
        pool.told_busy = busy = max(busy, pool.told_busy)
        running = sum(len(worker.futures()) for worker in pool._helpers.all())
        # Less in the queue, if somebody is in an initializer, or in a done-callback.
        waiting = min(pool._open() - running, pool._queue.qsize() - pool._closed)
        return Stats(
            backend=pool.name,
            max_workers=pool._size,
            workers=len(pool._workers),
            pending=max(0, waiting),
            running=running,
            finished=pool._taken_by_gone + sum(worker.taken for worker in pool._workers),
            abandoned=pool._abandoned,
            restarts=pool.replaced,
            busy=busy,
            utilisation=min(1.0, busy / life) if life else None,
        )


def _busy(worker: Worker, now: float) -> float:
    """Seconds, with those of the call that it is in."""
    call = worker.call
    while call is not None and call.before is not None:
        call = call.before
    return worker.busy + (0.0 if call is None else now - getattr(call, "begun", now))
