"""From what came back, or did not, to the end of a future."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from unirun._errors import (
    DeserializationError,
    InitializerFailed,
    QueueTimeout,
    SerializationError,
    TaskKilled,
    TaskTimeout,
    UnirunError,
    WorkerCrashed,
)
from unirun._payload import loads
from unirun._remote import decode

from . import wire
from .zygote import NEVER_MADE

if TYPE_CHECKING:
    from .backend import ProcessFuture


def settle(future: ProcessFuture, code: int, data: bytes) -> None:
    """End a future with what its worker answered."""
    if code == wire.RETURNED:
        _settle_value(future, data)
        return
    error = decode(data)
    if code == wire.UNREADABLE:
        text = f"the worker could not unpickle the call of {future.name}"
        error = _because(DeserializationError(f"{text}: {_text(error)}"), error)
    elif code == wire.UNSENDABLE and not isinstance(error, SerializationError):
        text = f"the result of {future.name} cannot be sent"
        error = _because(SerializationError(f"{text}: {_text(error)}"), error)
    future._fail(error)


def _settle_value(future: ProcessFuture, data: bytes) -> None:
    try:
        value = loads(data)
    except BaseException as exc:  # user code: SystemExit in a __setstate__ too  # noqa: BLE001
        text = f"the result of {future.name} could not be unpickled: {_text(exc)}"
        future._fail(_because(DeserializationError(text), exc))
        return
    future._succeed(value)


def settle_killed(future: ProcessFuture) -> None:
    """End a future whose worker was ended on purpose, and is dead."""
    reason = future.reason or TaskKilled(f"{future.name} was killed")
    if isinstance(reason, TaskKilled):
        future._killed(reason)
    else:
        future._fail(reason)


def settle_crashed(future: ProcessFuture, pid: int | None, status: int | None) -> None:
    """End a future whose worker died by itself."""
    detail = "" if status is not None else "how it ended is not known"
    future._fail(
        WorkerCrashed(future.name, pid, status, attempt=future.options.attempt, detail=detail)
    )


def settle_unsent(future: ProcessFuture, why: BaseException) -> None:
    """End a future whose call could not be written."""
    text = f"the call of {future.name} cannot be sent: {_text(why)}"
    future._fail(_because(SerializationError(text), why))


def timeout_of(future: ProcessFuture) -> TaskTimeout:
    limit = future.options.timeout
    how = "past its deadline" if limit is None else f"longer than its {limit:g} s"
    return TaskTimeout(f"{future.name} ran {how} and was killed")


def queue_timeout_of(future: ProcessFuture) -> QueueTimeout:
    return QueueTimeout(f"{future.name} still waited for a worker when its time was up")


def initializer_failure(what: str, data: bytes) -> InitializerFailed:
    cause = decode(data)
    error = InitializerFailed(f"{what}: {_text(cause)}")
    error.__cause__ = cause
    return error


def died_at_start(pid: int | None, status: int | None) -> InitializerFailed | None:
    """None where it was never made, which has been noted."""
    if status is not None and status <= NEVER_MADE:
        return InitializerFailed(f"no worker can be started: {os.strerror(NEVER_MADE - status)}")
    if pid is None:
        return None
    how = f"with exit code {status}"
    if status is not None and status < 0:
        how = (
            f"by {signal.Signals(-status).name}" if -status in _SIGNALS else f"by signal {-status}"
        )
    return InitializerFailed(f"workers die while they start (the last one, pid {pid}, {how})")


def no_workers(failure: BaseException | None) -> BaseException:
    """Why a broken pool takes no calls."""
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


_SIGNALS = {int(number) for number in signal.Signals}
