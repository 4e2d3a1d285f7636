"""What a dump tells of the thread backend."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures._base import PENDING
from typing import TYPE_CHECKING, Any

from unirun import _context
from unirun._dump_records import CallReport, Report, WorkerReport, copied, held_for_a_moment
from unirun._future import Future

from .calls import RunningCall, ThreadFuture

if TYPE_CHECKING:
    from .backend import ThreadBackend

MOST_LOOKED_AT = 1_000_000


def report_of(backend: ThreadBackend) -> Report:
    workers = held_for_a_moment(backend._lock, lambda: copied(backend._helpers.all()))
    told, calls, seen = [], [], set()
    for worker in workers:
        futures = copied(worker.futures())
        ident = getattr(worker.thread, "ident", None)
        name = worker.thread.name
        state = "idle" if not futures else f"runs {futures[0].name()}"
        told.append(WorkerReport(name, state, ident=ident))
        for future in futures:
            seen.add(id(future))
            calls.append(_call(future, f"thread {name!r}"))
    waiting = [each for each in _waiting(backend._queue) if each._state is PENDING]
    calls += [_call(future, "") for future in waiting if id(future) not in seen]
    notes = [] if not backend._abandoned else [f"{backend._abandoned} abandoned threads"]
    return Report(backend.name, backend.max_workers, calls, told, notes=notes)


def _waiting(queue: Any) -> Iterator[ThreadFuture]:
    """What is in the queue, which has no way to be asked; the collector has."""
    items = gc.get_referents(queue)
    for kept in [item for item in items if type(item) is list]:  # as before Python 3.13
        items += kept[:MOST_LOOKED_AT]
    yield from (item for item in items if isinstance(item, ThreadFuture))


def _call(future: ThreadFuture, worker: str) -> CallReport:
    running, options = future._call(), future._options
    now = time.monotonic()
    deadline = options.deadline if running is None else running.deadline
    return CallReport(
        future,
        future.name(),
        id=None if running is None or running._made is None else running._made.id,
        state="running" if worker else "waiting",
        age=now - future._since,
        attempt=options.attempt,
        worker=worker,
        left=None if deadline is None else deadline - now,
        parent=_parent(future),
    )


def _parent(future: ThreadFuture) -> Any:
    """The call that submitted one that waits, or that runs one in its own thread meanwhile."""
    running, context = future._call(), future._copied
    if running is not None:
        call: Any = running.before
    else:
        call = None if context is None else context.get(_context.running)
    return call.future if isinstance(call, RunningCall) else None


def runner_of(future: Future[Any]) -> int | None:
    """The thread that runs that call; None if none does, or if the call has a limit of its own."""
    call = future._call() if isinstance(future, ThreadFuture) else None
    if call is None or call.future is not future or call.deadline is not None:
        return None
    ident: int | None = call.worker.thread.ident
    return ident
