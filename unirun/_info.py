"""What a future tells about its call: `future.info`.

Nothing is noted for it when a call is submitted: the record is put together when it is asked for,
from what the future and the plan of its call know by then.
"""

from __future__ import annotations

from unirun._records import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
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

    def __str__(self) -> str:
        where = "" if self.backend is None else f" on backend {self.backend!r}"
        lines = [f"{self.function or 'a call'}: {self.state}{where}"]
        if self.worker is not None:
            process = f" of process {self.pid}" if self.pid and "pid" not in self.worker else ""
            lines.append(f"worker: {self.worker}{process}")
        if self.attempt not in (None, 1):
            lines.append(f"attempt: {self.attempt}")
        if self.reasons:
            lines += ["because", *(f"  - {reason}" for reason in self.reasons)]
        lines += shown_settings(self.settings) if self.settings else []
        return "\n".join(lines)


CallInfo.__module__ = "unirun"  # where users find it


def info_of(future: Any) -> CallInfo:
    """What there is to say about that future."""
    told: dict[str, Any] = future._tell_info()
    options = told.pop("options", None)
    chosen = getattr(options, "chosen", None)
    known: dict[str, Any] = {"state": _STATES[future._state]}
    if options is not None:
        known |= {"kind": options.kind, "attempt": options.attempt}
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
    return CallInfo(**known | {name: value for name, value in told.items() if value is not None})


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
