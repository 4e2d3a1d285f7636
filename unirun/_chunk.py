"""What runs where a piece of a `map` runs: several items in one call, each with its own outcome.

Light by rule: worker processes import it.
"""

from __future__ import annotations

import time

from unirun._context import current_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["run_chunk"]


def run_chunk(
    fn: Callable[..., Any], items: list[tuple[Any, ...]]
) -> tuple[float, list[tuple[bool, Any]]]:
    """Seconds it took, and (True, value) or (False, exception) for each item.

    In a worker process each outcome is sent as soon as it is there, and the list that is returned
    is empty: so a worker that dies takes along only the item it was at.
    """
    context = current_task()
    emit: Any = None if context is None else context.emit
    start = time.perf_counter()
    if emit is None:
        outcomes = [_outcome(fn, item) for item in items]
        return time.perf_counter() - start, outcomes
    for item in items:
        emit(_as_bytes(_outcome(fn, item)))
    return time.perf_counter() - start, []


def _outcome(fn: Callable[..., Any], item: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        value = fn(*item)
        if hasattr(value, "cr_await"):
            import asyncio

            value = asyncio.run(value)
        return True, value
    except BaseException as exc:  # whatever a task raises is its outcome  # noqa: BLE001
        tb = exc.__traceback__
        return False, exc.with_traceback(tb and tb.tb_next)


def _as_bytes(outcome: tuple[bool, Any]) -> bytes:
    from unirun._payload import dumps

    ok, value = outcome
    if ok:
        try:
            return b"+" + dumps(value, "the result")
        except Exception as exc:  # SerializationError: it is this item's outcome  # noqa: BLE001
            value = exc
    from unirun._remote import encode

    return b"-" + encode(value)
