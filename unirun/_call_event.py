"""What watchers are told: something that has happened to a call, or to a worker.

Light by rule: `unirun._observe` imports it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["CALLS", "ENDS", "KINDS", "WORKERS", "CallEvent"]

ENDS = ("finished", "failed", "cancelled", "killed", "timed_out", "crashed")
CALLS = ("held", "submitted", "started", "progress", "retried", *ENDS)
WORKERS = ("worker_started", "worker_ended", "worker_killed", "worker_died")
KINDS = (*CALLS, *WORKERS)


class CallEvent:
    """Something that has happened. What is not known, or means nothing here, is None.

    Moments are seconds on `time.monotonic()`, the same clock in all processes of a machine.
    """

    __slots__ = ("__dict__", "__weakref__", "future")

    what: str
    """One of KINDS."""
    at: float
    """When it happened."""
    call: int | None = None
    """Number of the call, one in the whole program; all attempts of a call have the same."""
    parent: int | None = None
    """Of the call that has submitted this one; told when it is submitted."""
    task: str | None = None
    """The function, as "module.qualname", or the name that the call was given."""
    kind: str | None = None
    """What the call was taken for: "cpu", "io", ..."""
    backend: str | None = None
    worker: str | None = None
    """Name of a thread, or "pid N"."""
    pid: int | None = None
    """The process of that worker."""
    machine: str | None = None
    """Where that process is; None: on this one."""
    attempt: int | None = None
    """From 1."""
    items: int | None = None
    """How many, of a piece of a map; None: a single call."""
    queued: float | None = None
    """When it was submitted; told at its end, as all below."""
    started: float | None = None
    """When its body began."""
    finished: float | None = None
    """When its body was over; `at` is when its outcome was known here."""
    cpu: float | None = None
    """Processor seconds."""
    peak: int | None = None
    """Bytes; the most memory that its worker process has used meanwhile."""
    bytes_in: int | None = None
    """Of its encoded arguments; told when it is submitted, and at the end."""
    bytes_out: int | None = None
    """Of its encoded result."""
    packing: float | None = None
    """Seconds to encode its arguments, in the thread that submits; told when it is submitted."""
    unpacking: float | None = None
    """Seconds to decode its arguments, in the worker; a part of the time from started to finished,
    as is `repacking`."""
    repacking: float | None = None
    """Seconds to encode its result, in the worker."""
    error: str | None = None
    """Name of the type of its exception."""
    exitcode: int | None = None
    """Of a worker process that has ended; minus the number of the signal that ended it."""
    done: float | None = None
    """What a call reports of its progress, and the next two; told by "progress"."""
    total: float | None = None
    message: str | None = None
    source: int = 0
    """Which backend of which executor tells it: its `id`."""
    future: Any
    """Of the call, where it is in this process; else None. It has the result, so who keeps an event
    for long keeps its `__dict__`, which this is no part of: the event itself is others', too."""

    def __init__(self, known: dict[str, Any], future: Any = None) -> None:
        """`known`, with `what` and `at`, is the event's from now on, and not changed any more."""
        self.__dict__ = known
        self.future = future

    def __repr__(self) -> str:
        shown = {**self.__dict__}
        what = shown.pop("what")
        shown.pop("source", None)
        known = [f"{name}={value!r}" for name, value in shown.items() if value is not None]
        return f"<unirun event {what}: {', '.join(known)}>"


CallEvent.__module__ = "unirun"
