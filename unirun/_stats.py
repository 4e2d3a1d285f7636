"""What `Executor.stats` tells of one backend."""

from __future__ import annotations

from unirun._records import record

__all__ = ["Stats"]


@record
class Stats:
    """A snapshot of counters.

    `abandoned` counts threads whose call timed out and runs on, `objects` the shared objects that
    live for the backend outside of its caller's memory.
    """

    backend: str
    max_workers: int
    workers: int = 0
    pending: int = 0
    running: int = 0
    finished: int = 0
    killed: int = 0
    crashed: int = 0
    abandoned: int = 0
    pids: tuple[int, ...] = ()
    objects: int = 0
    failed: int = 0
    """Calls that raised an exception of their own, or could not be sent; those below apart. These
    are in `finished`, too, which counts all that have ended there."""
    timed_out: int = 0
    """Calls that went past their time, waiting or running."""
    cancelled: int = 0
    """Calls that were cancelled before they began."""
    retried: int = 0
    """Attempts that failed and were followed by another."""
    restarts: int = 0
    """Workers that were replaced: killed, dead, given up, or after `max_tasks_per_child`."""
    bytes_in: int = 0
    """What was sent to worker processes: calls, and large arguments in shared memory."""
    bytes_out: int = 0
    """What came from there."""
    busy: float = 0.0
    """Seconds that bodies have run, of all calls together; those that run now included. On threads
    of calls that took 1 ms or longer; on an event loop, where they run at once, 0."""
    utilisation: float | None = None
    """`busy` as a share of the time that there were workers, 0 to 1; None: there was none."""


Stats.__module__ = "unirun.backend"  # where users find it
