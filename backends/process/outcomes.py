"""From what came back, or did not, to the end of a future."""

from __future__ import annotations

import os

from unirun._errors import (
    QueueTimeout,
    SerializationError,
    TaskKilled,
    TaskTimeout,
    UnirunError,
)
from unirun._future import succeed_all
from unirun._payload import is_reference, loads

from . import wire
from .ends import NEVER_MADE
from .obituary import UNKNOWN, Obituary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .exchange import Side
    from .future import ProcessFuture


def settle(future: ProcessFuture, side: Side | None, code: int, data: bytes) -> None:
    """End a future with what its worker answered."""
    if code == wire.RETURNED:
        _settle_value(future, data, side)
        return
    from unirun._remote import decode  # only a call that failed pays for it

    error = decode(data)
    if code == wire.UNREADABLE:
        text = f"the worker could not unpickle the call of {future.name}"
        from unirun._broken import DeserializationError

        error = _because(DeserializationError(f"{text}: {_text(error)}"), error)
    elif code == wire.UNSENDABLE and not isinstance(error, SerializationError):
        text = f"the result of {future.name} cannot be sent"
        error = _because(SerializationError(f"{text}: {_text(error)}"), error)
    future._fail(error)


def _settle_value(future: ProcessFuture, data: bytes, side: Side | None) -> None:
    try:
        value = side.load(data) if side is not None and is_reference(data) else loads(data)
    except BaseException as exc:  # user code: SystemExit in a __setstate__ too  # noqa: BLE001
        text = f"the result of {future.name} could not be unpickled: {_text(exc)}"
        from unirun._broken import DeserializationError

        future._fail(_because(DeserializationError(text), exc))
        return
    future._succeed(value)


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
    """End a future that never ran; one that was taken back from a worker ends as killed."""
    if not future.cancel_unsent():
        settle_killed(future)


def settle_killed(future: ProcessFuture) -> None:
    """End a future whose worker was ended on purpose, and is dead."""
    peer = future.victim_of or future._peer
    future._payload = future._side = None
    reason = future.reason or TaskKilled(f"{future.name} was killed")
    if isinstance(reason, TaskKilled):
        if peer is not None and peer.obituary is not None:
            reason.exitcode = peer.obituary.status
        future._killed(reason)
    else:
        future._fail(reason)


def settle_crashed(future: ProcessFuture) -> None:
    """End a future whose worker died by itself."""
    future._payload = future._side = None
    obituary = future._peer.obituary if future._peer is not None else None
    future._fail((obituary or UNKNOWN).error(future))


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
    from unirun._broken import InitializerFailed  # it takes 20 ms to import, as below

    return InitializerFailed(text)


def initializer_failure(what: str, data: bytes) -> BaseException:
    from unirun._broken import InitializerFailed
    from unirun._remote import decode

    cause = decode(data)
    error = InitializerFailed(f"{what}: {_text(cause)}")
    error.__cause__ = cause
    return error


def died_at_start(obituary: Obituary) -> BaseException | None:
    """None where it was never made, which has been noted."""
    from unirun._broken import InitializerFailed, signal_name

    pid, status = obituary.pid, obituary.status
    if status is not None and status <= NEVER_MADE:
        return InitializerFailed(f"no worker can be started: {os.strerror(NEVER_MADE - status)}")
    if pid is None:
        return None
    name = signal_name(status)
    how = f"by {name}" if name else f"with exit code {status}"
    text = f"workers die while they start (the last one, pid {pid}, {how})"
    return InitializerFailed(text + obituary.last_words())


def no_workers(failure: BaseException | None) -> BaseException:
    """Why a broken pool takes no calls."""
    from unirun._broken import InitializerFailed

    if isinstance(failure, InitializerFailed):
        fresh = InitializerFailed(*failure.args)  # one exception object for each future
        fresh.__cause__ = failure.__cause__
        return fresh
    return _because(InitializerFailed(f"no worker can be started: {failure}"), failure)


def loop_crashed(crash: BaseException) -> BaseException:
    text = f"the pool stopped because of a bug in unirun ({type(crash).__name__}: {crash})"
    return _because(UnirunError(f"{text}; please report it"), crash)


def _text(exc: BaseException) -> str:
    """Type and message of an exception, whose `__str__` is the user's and may fail."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except BaseException:  # noqa: BLE001  # user code
        return type(exc).__name__


def _because(error: UnirunError, cause: BaseException | None) -> UnirunError:
    error.__cause__ = cause
    return error
