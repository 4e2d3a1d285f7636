"""From what came back, or did not, to the end of a future."""

from __future__ import annotations

import os
import sys
from concurrent.futures._base import CANCELLED_AND_NOTIFIED

from unirun import _remedies
from unirun._errors import (
    QueueTimeout,
    SerializationError,
    TaskKilled,
    TaskTimeout,
    UnirunError,
)
from unirun._future import succeed_all
from unirun._payload import is_reference, loads
from unirun._sites import site_of

from . import wire
from .ends import NEVER_MADE
from .obituary import UNKNOWN, Obituary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .exchange import Side
    from .future import ProcessFuture
    from .nested import NestedFuture


def settle(future: ProcessFuture | NestedFuture, side: Side | None, code: int, data: bytes) -> None:
    """End a future with what its worker answered."""
    if future.pass_on is not None:
        future.pass_on(side, code, data)
        return
    if code == wire.RETURNED:
        settle_value(future, data, side)
    else:
        what = f"{future.name} failed"
        future._fail(_told(what, lambda: _failure(future, code, data)))


def _failure(future: ProcessFuture | NestedFuture, code: int, data: bytes) -> BaseException:
    from unirun._call_notes import add_call_note  # only a call that failed pays for it
    from unirun._remote import decode_told

    future.keep()
    error, note = decode_told(data)
    name = future.name
    if note is not None:
        add_call_note(error, note, site_of(future))
    if code == wire.UNREADABLE:
        text = f"the worker could not unpickle the call of {name}"
        from unirun._broken import DeserializationError

        return _because(DeserializationError(f"{text}: {_text(error)}"), error)
    if code == wire.UNSENDABLE and not isinstance(error, SerializationError):
        text = f"the result of {name} cannot be sent"
        return _because(SerializationError(f"{text}: {_text(error)}"), error)
    return error


def _told(what: str, make: Callable[[], BaseException]) -> BaseException:
    """The error that `make` makes, which imports its class: they are heavy, and rarely needed.

    Where that fails since there is no descriptor or memory left, the pool goes on, and the call
    has an error that says as much.
    """
    try:
        return make()
    except (ImportError, OSError, MemoryError) as exc:
        why = f"{_text(exc)}{_remedies.for_error(exc)}"
        return _because(UnirunError(f"{what}; how cannot be told: {why}"), exc)


def settle_value(future: ProcessFuture | NestedFuture, data: bytes, side: Side | None) -> None:
    try:
        value = side.load(data) if side is not None and is_reference(data) else loads(data)
    except BaseException as exc:  # user code: SystemExit in a __setstate__ too  # noqa: BLE001
        text, cause = f"the result of {future.name} could not be unpickled: {_text(exc)}", exc
        future._fail(_told(text, lambda: _unreadable(text, cause)))
        return
    future._succeed(value)


def _unreadable(text: str, cause: BaseException) -> BaseException:
    from unirun._broken import DeserializationError

    return _because(DeserializationError(text), cause)


def settle_answered(futures: Sequence[ProcessFuture]) -> None:
    """End futures with the answers they have got."""
    plain = []
    for future in futures:
        answer, side = future._answer, future._side
        future._answer = future._side = None
        if type(answer) is tuple:
            settle(future, side, *answer)
        else:
            plain.append((future, answer))
        future._payload = None  # not before: handles in it may be in the answer, too
    succeed_all(plain)


def settle_cancelled(future: ProcessFuture) -> None:
    """End a future that never ran; one that was taken back from a worker for a kill, as killed."""
    if future.cancel_unsent():
        return
    if future.reason is None:  # a shutdown cancels what waits, sent once or not
        future._payload = future._side = None
        future._end(CANCELLED_AND_NOTIFIED, None, None)
        return
    settle_killed(future)


def settle_killed(future: ProcessFuture) -> None:
    """End a future whose worker was ended on purpose, and is dead."""
    peer, payload = future.victim_of or future._peer, future._payload
    future.keep()
    future._payload = future._side = None
    reason = future.reason or TaskKilled(f"{future.name} was killed")
    obituary = None if peer is None else peer.obituary
    _forget_worker(future)
    if isinstance(reason, TaskKilled):
        if obituary is not None:
            reason.exitcode = obituary.status
        future._killed(reason)
    else:
        _note_end(future, payload, reason)
        future._fail(reason)


def _forget_worker(future: ProcessFuture) -> None:
    """A future that is kept keeps no memory of a dead worker, nor the descriptor of that.

    But a map asks what its worker had done, see `unsaid`; and it keeps no future for long.
    """
    peer = future.victim_of or future._peer
    if peer is not None:
        future._pid = peer.told_pid
    if future.on_part is None:
        future.victim_of = future._peer = None


def settle_crashed(future: ProcessFuture) -> None:
    """End a future whose worker died by itself."""
    payload = future._payload
    future.keep()
    future._payload = future._side = None
    obituary = future._peer.obituary if future._peer is not None else None
    _forget_worker(future)
    what = f"the worker running {future.name} died"
    error = _told(what, lambda: (obituary or UNKNOWN).error(future))
    _note_end(future, payload, error)
    future._fail(error)


def _note_end(future: ProcessFuture, payload: Any, error: BaseException) -> None:
    """Of a call that a worker took along: nobody is left there to tell of its arguments."""
    from unirun._call_notes import add_call_note, call_note

    args = payload if type(payload) is tuple else None
    worker = "" if future._pid is None else f"pid {future._pid}"
    about: Any = {"call": future.number, "attempt": future.options.attempt, "worker": worker}
    add_call_note(error, call_note(future.name, args, **about), site_of(future))


def settle_unsent(future: ProcessFuture, why: BaseException) -> None:
    """End a future whose call could not be written."""
    future._payload = future._side = None
    text = f"the call of {future.name} cannot be sent: {_text(why)}"
    future._fail(_because(SerializationError(text), why))


def timeout_of(future: ProcessFuture) -> TaskTimeout:
    limit = future.options.timeout
    how = "past its deadline" if limit is None else f"longer than its {limit:g} s"
    return TaskTimeout(f"{future.name} ran {how} and was killed")


def queue_timeout_of(future: ProcessFuture) -> QueueTimeout:
    return QueueTimeout(f"{future.name} still waited for a worker when its time was up")


def preload_failure(text: str) -> BaseException:
    return _no_worker(text)


def initializer_failure(what: str, data: bytes) -> BaseException:
    return _told(what, lambda: _initializer_failure(what, data))


def _initializer_failure(what: str, data: bytes) -> BaseException:
    from unirun._remote import decode

    cause = decode(data)
    return _no_worker(f"{what}: {_text(cause)}", cause)


def died_at_start(obituary: Obituary) -> BaseException | None:
    """None where it was never made, which has been noted."""
    pid, status = obituary.pid, obituary.status
    if status is not None and status <= NEVER_MADE:
        number = NEVER_MADE - status
        why = f"{os.strerror(number)}{_remedies.for_number(number)}"
        return _no_worker(f"no worker can be started: {why}")
    if pid is None:
        return None
    text = "workers die while they start"
    return _told(text, lambda: _died_at_start(text, obituary))


def _died_at_start(text: str, obituary: Obituary) -> BaseException:
    from unirun._broken import signal_name

    name = signal_name(obituary.status)
    how = f"by {name}" if name else f"with exit code {obituary.status}"
    text += f" (the last one, pid {obituary.pid}, {how})"
    return _no_worker(text + obituary.last_words())


def no_workers(failure: BaseException | None) -> BaseException:
    """Why a broken pool takes no calls."""
    if isinstance(failure, UnirunError):  # one exception object for each future
        return _no_worker(str(failure), failure.__cause__)
    why = "what makes them died at once, see its stderr; does the program that is sys.executable "
    why += f"({sys.executable}) start, and can it import unirun?"
    if failure is not None:
        why = f"{failure or type(failure).__name__}{_remedies.for_error(failure)}"
    return _no_worker(f"no worker can be started: {why}", failure)


def _no_worker(text: str, cause: BaseException | None = None) -> BaseException:
    return _told(text, lambda: _because(_initializer_failed(text), cause))


def _initializer_failed(text: str) -> UnirunError:
    from unirun._broken import InitializerFailed

    return InitializerFailed(text)


def loop_crashed(crash: BaseException) -> BaseException:
    what = f"({type(crash).__name__}: {crash})"
    if isinstance(crash, MemoryError):
        text = f"the pool stopped as the program has run out of memory {what}"
        text += _remedies.for_error(crash)
    else:
        text = f"the pool stopped because of a bug in unirun {what}; please report it"
    return _because(UnirunError(text), crash)


def _text(exc: BaseException) -> str:
    """Type and message of an exception, whose `__str__` is the user's and may fail."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except BaseException:  # noqa: BLE001  # user code
        return type(exc).__name__


def _because(error: UnirunError, cause: BaseException | None) -> UnirunError:
    error.__cause__ = cause
    return error


SETTLE: dict[str, Callable[[ProcessFuture], None]] = {
    "killed": settle_killed,
    "crashed": settle_crashed,
    "cancelled": settle_cancelled,
}
"""How to end a future that was not answered."""
