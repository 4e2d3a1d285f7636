"""What a dump tells of the process backend: read beside the loop, which may be what hangs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from unirun._dump_records import CallReport, Report, WorkerReport, copied, held_for_a_moment
from unirun._errors import ManagerLost
from unirun._hangs import CALL

from . import remains
from .control import BEGUN_AT, SINCE, WAITS
from .inner import InnerCall

if TYPE_CHECKING:
    from .backend import ProcessBackend
    from .future import ProcessFuture
    from .peer import Peer
    from .pool import Pool

MOMENT = 0.3
"""Seconds for a manager in another process to tell of its objects."""


def report_of(backend: ProcessBackend) -> Report:
    pool = backend._pool
    calls, workers = held_for_a_moment(pool.role._lock, lambda: _look(pool))
    fresh = [item for item in copied(pool._fresh) if not isinstance(item, tuple)]
    calls += [_call(pool, future, "waiting", None) for future in fresh]
    notes = []
    if pool.thread.ident is not None and not pool.thread.is_alive() and not pool.ended:
        notes.append("its loop has crashed")
    if pool._state.broken:
        notes.append(f"no worker can be started: {pool._crew.failure}")
    objects = objects_of(backend)
    size = backend.max_workers
    return Report(backend.name, size, calls, workers, objects, notes, remains.WORKER)


def _look(pool: Pool) -> tuple[list[CallReport], list[WorkerReport]]:
    state: Any = pool._state
    calls, workers = [], []
    for peer in copied(pool._crew.peers.values()):
        held = copied(state.held(peer.number))
        runs = _running(peer, held)
        workers.append(_worker(pool, peer, runs))
        for future in held:
            if future is runs:
                calls.append(_call(pool, future, "running", peer))
            else:
                calls.append(_call(pool, future, "sent, waits behind another", peer))
    calls += [_call(pool, future, "waiting", None) for future in copied(state._waiting)]
    return calls, workers


def _running(peer: Peer, held: list[Any]) -> Any:
    begun = peer.at
    return next((each for each in held if each._index == begun), None)


def _name(peer: Peer) -> str:
    return f"pid {peer.pid}" if peer.pid is not None else f"worker {peer.number}, not made yet"


def _worker(pool: Pool, peer: Peer, runs: ProcessFuture | None) -> WorkerReport:
    waits, waited = wait_of(peer) if runs is not None else (0, 0.0)
    if peer.doomed is not None:
        state = "is being killed"
    elif runs is not None:
        state = f"runs {runs.name}"
    elif pool._state.is_starting(peer.number):
        state = f"starting for {time.monotonic() - peer.idle_since:.1f} s"
    else:
        state = "idle"
    return WorkerReport(
        _name(peer),
        state,
        pid=peer.pid,
        waits=0 if waits & CALL else waits,
        awaits=awaited_by(pool, peer, waits),
        waited=waited,
    )


def awaited_by(pool: Pool, peer: Peer, waits: int) -> InnerCall | None:
    """The call that its task has submitted, and waits for; None if that is none, or over."""
    return pool.inner._calls.get(peer, {}).get(waits & ~CALL) if waits & CALL else None


def wait_of(peer: Peer) -> tuple[int, float]:
    """What its task waits for without a time-out, and for how long; 0: nothing."""
    if peer.control is None:
        return 0, 0.0
    what = int(peer.control.words[WAITS])
    return what, _seconds_since(peer, SINCE) if what else 0.0


def _seconds_since(peer: Peer, word: int) -> float:
    assert peer.control is not None
    return max(0.0, (time.perf_counter_ns() - int(peer.control.words[word])) / 1e9)


def _call(pool: Pool, future: ProcessFuture, state: str, peer: Peer | None) -> CallReport:
    options, now, parent, ran = future.options, time.monotonic(), None, None
    ends = future.ends_of_waiting()
    if state == "running" and peer is not None:
        ran = _seconds_since(peer, BEGUN_AT)
        ends = [end for end in (future._running_until,) if end is not None]
    if isinstance(future, InnerCall):
        held: list[Any] = copied(pool._state.held(future.peer.number))
        parent = next((each for each in held if each._index == future.parent), None)
    return CallReport(
        future,
        future.name,
        id=future.number,
        state=state,
        age=now - future._since if future._since else None,
        ran=ran,
        attempt=options.attempt,
        worker="" if peer is None else _name(peer),
        left=min(ends) - now if ends else None,
        parent=parent,
    )


def objects_of(backend: ProcessBackend) -> list[str]:
    """Lines about the shared objects that were made for it."""
    place: Any = backend._place
    manager = None if place is None else place._manager
    if manager is None:
        return []
    try:
        lines: list[str] = manager.tell(MOMENT)
    except ManagerLost as exc:
        return [f"not known: {exc}"]
    return lines
