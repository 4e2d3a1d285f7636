"""What a future tells about its call: `future.info`.

Nothing is noted for it when a call is submitted: the record is put together when it is asked for,
from what the future and the plan of its call know by then.
"""

from __future__ import annotations

import time

from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["CallInfo", "info_of", "shown_settings"]


@record
class CallInfo:
    """What is known about a call at one moment; made by `Future.info`. `str()` is for reading.

    None stands for what is not known (yet). More may be told by later versions.
    """

    function: str | None = None
    """The function, as "module.qualname"; or the name the call was given."""
    state: str = "pending"
    """As `concurrent.futures` calls it: "pending", "running", "finished" or "cancelled"."""
    backend: str | None = None
    kind: str | None = None
    """What the call was taken for: its hint, where nobody knew better."""
    call: int | None = None
    """Its number, as `current_task().id` and events tell it: one for all its attempts. None while
    it waits for its turn in a view with a limit."""
    attempt: int | None = None
    """From 1; which one this is of a call with `retries`."""
    worker: str | None = None
    """Where it runs or has run: the name of a thread, or "pid N"."""
    pid: int | None = None
    """The process of that worker."""
    reasons: tuple[str, ...] = ()
    """Why it went to that backend."""
    settings: tuple[tuple[str, Any, str], ...] = ()
    """(key, value, where it came from), as they were when the call was planned."""
    queued_at: float | None = None
    """When it was submitted; this and the next two in seconds since the epoch, as `time.time()`."""
    started_at: float | None = None
    """When its body began. On processes, as all that follows, of calls that took 1 ms or longer;
    of all calls while somebody watches (`Executor.on`, a trace)."""
    finished_at: float | None = None
    """When its body was over, or its worker was."""
    waited: float | None = None
    """Seconds from submit to the beginning of the body."""
    took: float | None = None
    """Seconds that the body ran; in a worker process with the decoding of its arguments and the
    encoding of its result."""
    cpu_seconds: float | None = None
    """Processor time: of all threads of its worker process meanwhile, without processes that it
    has started; in this process, of the thread that ran it. Of calls that took 1 ms or longer; it
    may be wrong by 0.2 ms. Of coroutines on an event loop: of their own steps, while somebody
    watches."""
    peak_memory: int | None = None
    """Bytes: the largest resident size of its worker process while it ran, what the process had
    before included. None on threads and loops of this process: they share its memory."""
    bytes_in: int | None = None
    """Of its encoded arguments, on processes."""
    bytes_out: int | None = None
    """Of its encoded result, or exception."""

    def __str__(self) -> str:
        where = "" if self.backend is None else f" on backend {self.backend!r}"
        lines = [f"{self.function or 'a call'}: {self.state}{where}"]
        if self.worker is not None:
            process = f" of process {self.pid}" if self.pid and "pid" not in self.worker else ""
            lines.append(f"worker: {self.worker}{process}")
        if self.attempt not in (None, 1):
            lines.append(f"attempt: {self.attempt}")
        lines += _figures(self)
        if self.reasons:
            lines += ["because", *(f"  - {reason}" for reason in self.reasons)]
        lines += shown_settings(self.settings) if self.settings else []
        return "\n".join(lines)


CallInfo.__module__ = "unirun"  # where users find it


def info_of(future: Any, call_of: Callable[[Any, Any], int]) -> CallInfo:
    """What there is to say about that future; `call_of` as in `_observe`."""
    told: dict[str, Any] = future._tell_info()
    options = told.pop("options", None)
    chosen = getattr(options, "chosen", None)
    known: dict[str, Any] = {"state": _STATES[future._state]}
    if options is not None:
        known |= {"kind": options.kind, "attempt": options.attempt}
        acting = future._acting()  # the future that stands for it by now
        if acting.has_number or options.call is not None:
            known["call"] = call_of(acting, options)
    if chosen is not None:
        known |= {
            "function": chosen.function,
            "backend": chosen.decision.backend,
            "kind": chosen.decision.kind,
            "reasons": chosen.decision.reasons,
            "settings": tuple(chosen.settings.explain()),
        }
    backend = getattr(future._backend, "name", None)
    if backend is not None:  # where it is; the plan may have meant another place
        known["backend"] = backend
    if options is not None and options.name is not None:
        known["function"] = options.name
    known |= _times(told.pop("queued", None), told.pop("begun", None), told.pop("ended", None))
    known |= {name: told.pop(short, None) for short, name in _FIGURES.items()}
    told = {name: value for name, value in told.items() if name not in _FOR_EVENTS}
    return CallInfo(**known | {name: value for name, value in told.items() if value is not None})


_FIGURES = {
    "cpu": "cpu_seconds",
    "peak": "peak_memory",
    "bytes_in": "bytes_in",
    "bytes_out": "bytes_out",
}
_FOR_EVENTS = ("machine", "told_begun", "unpacking", "repacking")

# What to add to a moment of `time.monotonic()` for one of `time.time()`. Taken once, so that the
# times of two calls differ by what has passed, even if somebody sets the clock.
_epoch = time.time() - time.monotonic()


def _times(queued: float | None, began: float | None, ended: float | None) -> dict[str, Any]:
    """The three on `time.monotonic()`, for a `CallInfo`."""
    found: dict[str, Any] = {}
    for name, moment in (("queued", queued), ("started", began), ("finished", ended)):
        found[f"{name}_at"] = None if moment is None else moment + _epoch
    if began is not None and queued is not None:
        found["waited"] = max(0.0, began - queued)
    if began is not None and ended is not None:
        found["took"] = max(0.0, ended - began)
    return found


def _figures(info: CallInfo) -> list[str]:
    """For reading."""
    shown = []
    if info.took is not None:
        cpu = "" if info.cpu_seconds is None else f", {info.cpu_seconds:.3g} s of processor time"
        shown.append(f"took {info.took:.3g} s{cpu}")
    if info.waited is not None:
        shown.append(f"waited {info.waited:.3g} s")
    if info.peak_memory is not None:
        shown.append(f"peak memory: {info.peak_memory / (1 << 20):.1f} MiB")
    if info.bytes_in is not None or info.bytes_out is not None:
        shown.append(f"bytes: {info.bytes_in or 0} in, {info.bytes_out or 0} out")
    return shown


_STATES = {
    "PENDING": "pending",
    "RUNNING": "running",
    "FINISHED": "finished",
    "CANCELLED": "cancelled",
    "CANCELLED_AND_NOTIFIED": "cancelled",
}


def shown_settings(rows: Iterable[tuple[str, Any, str]]) -> list[str]:
    """Those that somebody has made, for reading."""
    made = [row for row in rows if row[2] != "default"]
    shown = [f"  {key} = {value!r}  ({source})" for key, value, source in made]
    return ["settings:", *(shown or ["  all default"])]
