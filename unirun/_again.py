"""A call that failed, run once more by whoever asks: see `_replay`."""

from __future__ import annotations

from unirun._records import replace
from unirun.backend import CallOptions, FlagToken, context_of, run_in_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context
    from typing import Any

__all__ = ["run_again"]


def run_again(
    inside: Context,
    backend: str,
    name: str,
    options: CallOptions,
    number: int | None,
    call: tuple[Any, Any, Any],
) -> tuple[Any, BaseException | None]:
    """The outcome of that function with these arguments; its time limits do not count."""
    unlimited = replace(options, timeout=None, queue_timeout=None, deadline=None)

    def run() -> tuple[Any, BaseException | None]:
        context = context_of(backend, name, unlimited, FlagToken(), number=number or 0)
        return run_in_context(context, *call)

    return inside.run(run)
