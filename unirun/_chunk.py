"""What runs where a piece of a `map` runs: several items in one call, each with its own outcome.

In a worker process outcomes are recorded as `_record` says, before the next item begins: so a
worker that dies takes along only the item it was at.

Light by rule: worker processes import it.
"""

from __future__ import annotations

import time
from marshal import dumps as marshal

from unirun._context import current_task
from unirun._payload import handles_in
from unirun._record import ENTRIES, FLOATS, NUMBERS, PICKLED, PLAIN, RAISED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

__all__ = ["run_chunk"]

_KINDS = (int, float, Record)  # by form; no outcome is a Record
_MARSHALLED = frozenset({type(None), bool, int, float, complex, str, bytes})
_END = object()
_OURS = (__name__, "unirun._numbered")


def run_chunk(
    fn: Callable[..., Any], columns: tuple[Sequence[Any], ...]
) -> bytes | float | list[Any] | tuple[float, list[tuple[bool, Any]]]:
    """Seconds it took, and the outcomes: (True, value) or (False, exception) for each item.

    In a worker process, where nothing may get lost, that is what `Record.end` returns; in a list
    with the handles that are in the outcomes, if there are any: these are not unpickled for long.
    """
    context = current_task()
    emit: Any = None if context is None else context.emit
    start = time.perf_counter()
    call, items = (fn, iter(columns[0])) if len(columns) == 1 else (_Starred(fn), zip(*columns))  # noqa: B905
    if emit is None:
        outcomes = [_outcome(call, item) for item in items]
        return time.perf_counter() - start, outcomes
    record = Record(emit.memory, emit.index, len(columns[0]), emit)
    try:
        _, handles = handles_in(_run_all, call, items, record)
        if record.abandoned:
            return b""
        answer = record.end(time.perf_counter() - start)
        return [answer, *{id(handle): handle for handle in handles}.values()] if handles else answer
    finally:
        record.close()


class _Starred:
    """Calls a function with each member of a tuple."""

    __slots__ = ("_fn",)

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn

    def __call__(self, args: tuple[Any, ...]) -> Any:
        return self._fn(*args)


def _run_all(call: Callable[[Any], Any], items: Iterator[Any], record: Record) -> None:
    fill = _fill
    while True:
        ok, value = fill(call, items, record)
        if value is _END:
            return
        if record.abandoned:  # we are in a child that the item forked
            if ok:
                return
            raise value
        _keep(*_finished(ok, value), record)
        if record.form == ENTRIES:
            fill = _add


def _fill(call: Callable[[Any], Any], items: Iterator[Any], record: Record) -> tuple[bool, Any]:
    """Run items while their outcomes fit in by a plain store; returns the first that does not.

    Every instruction in this loop is paid for by each item of every map.
    """
    kind, slots, at = _KINDS[record.form], record.slots, record.at
    for item in items:
        try:
            value = call(item)
        except BaseException as exc:  # whatever a task raises is its outcome  # noqa: BLE001
            record.at = at
            return False, exc
        if type(value) is not kind:
            record.at = at
            return True, value
        try:
            slots[at] = value
        except (IndexError, ValueError):  # the slots are used up; or it has more than 64 bits
            record.at = at
            return True, value
        at += 1
    record.at = at
    return True, _END


def _add(call: Callable[[Any], Any], items: Iterator[Any], record: Record) -> tuple[bool, Any]:
    """As `_fill`, where the outcomes are no plain numbers."""
    for item in items:
        try:
            value = call(item)
        except BaseException as exc:  # as above  # noqa: BLE001
            return False, exc
        if record.abandoned or type(value) not in _MARSHALLED:
            return True, value
        record.add(_entry(True, value))
    return True, _END


def _keep(ok: bool, value: Any, record: Record) -> None:
    """An outcome that came when the slots were full, or of another form."""
    form = _form_of(value) if ok else ENTRIES
    if form != record.form and record.is_unused():
        record.send(form)
    if form == record.form != ENTRIES:
        record.put(value)
    else:
        record.add(_entry(ok, value))


def _form_of(value: Any) -> int:
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return NUMBERS
    return FLOATS if type(value) is float else ENTRIES


def _outcome(call: Callable[[Any], Any], item: Any) -> tuple[bool, Any]:
    try:
        return _finished(True, call(item))
    except BaseException as exc:  # as above  # noqa: BLE001
        return _finished(False, exc)


def _finished(ok: bool, value: Any) -> tuple[bool, Any]:
    """The outcome, once a coroutine has been run to its end, and without our frames."""
    if not ok:
        return False, _without_our_frames(value)
    if hasattr(value, "cr_await"):
        import asyncio

        try:
            return True, asyncio.run(value)
        except BaseException as exc:  # as above  # noqa: BLE001
            return False, _without_our_frames(exc)
    return True, value


def _without_our_frames(exc: BaseException) -> BaseException:
    tb = exc.__traceback__
    while tb is not None and tb.tb_frame.f_globals.get("__name__") in _OURS:
        tb = tb.tb_next
    return exc.with_traceback(tb)


def _entry(ok: bool, value: Any) -> bytes:
    if ok and type(value) in _MARSHALLED:
        try:
            return PLAIN + marshal(value)
        except ValueError:  # too long for it
            pass
    from unirun._payload import dumps

    if ok:
        try:
            return PICKLED + dumps(value, "the result")
        except Exception as exc:  # SerializationError: it is this item's outcome  # noqa: BLE001
            value = exc
    from unirun._remote import encode

    return RAISED + encode(value)
