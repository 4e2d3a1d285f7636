"""What is told, and kept, of a call that failed in a thread."""

from __future__ import annotations

from typing import Any

from unirun._sites import site_of

from .calls import RunningCall, ThreadFuture

__all__ = ["note_failure"]


def note_failure(future: ThreadFuture, call: RunningCall, error: BaseException) -> None:
    """Say on its exception which call it was; the arguments stay with the future, for `replay`."""
    from unirun._call_notes import add_call_note, call_note  # only a call that failed pays for it

    args, kwargs = call_of(future)[1:]
    about = call.context()
    note = call_note(
        about.name,
        args,
        kwargs,
        fn=call.fn,
        call=about.id,
        attempt=about.attempt,
        worker=about.worker,
    )
    add_call_note(error, note, site_of(future))


def call_of(future: ThreadFuture) -> tuple[Any, Any, Any]:
    """Its function, args and kwargs."""
    args: Any = future._args
    return (future._fn, args, {}) if type(args) is tuple else (future._fn, args, args.named)
