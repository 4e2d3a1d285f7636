"""A call as opaque bytes and its outcome as bytes, for engines that know nothing of either.

    the caller          an engine's worker               the caller
    encode ──bytes──▶  run (an installed function) ──(code, bytes)──▶ settle

No engine ever sees a function, an argument or an exception of the user: it would pickle them its
own way, and some end their workers where that fails.  Light: what runs in an engine's worker
imports it.
"""

from __future__ import annotations

import os
import types
from functools import partial

from unirun import _context, _payload
from unirun._deferral import imported
from unirun._payload import dumps, handles_in, loads
from unirun._sites import site_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from unirun._future import Future
    from unirun._payload import Store

__all__ = [
    "FAILED",
    "KILLED",
    "RAISED",
    "RETURNED",
    "UNREADABLE",
    "UNSENDABLE",
    "decode",
    "encode",
    "encode_error",
    "error_of",
    "run",
    "settle",
    "settle_in",
]

RETURNED, RAISED, UNREADABLE, UNSENDABLE, FAILED, KILLED = range(20, 26)
"""An outcome is one of these and bytes: its value; the exception it raised; why its arguments could
not be unpickled; why its value could not be pickled; what ended it from outside; its TaskKilled."""


def encode(
    fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], store: Store | None = None
) -> tuple[bytes, list[Any]]:
    """The call as bytes, and the handles in it, which whoever sends it keeps alive meanwhile.

    What is large is offered to `store`, and what that returns is what `run` is to be given.

    Raises SerializationError, which names the part that cannot be pickled.
    """
    call, what, parts = (fn, args, kwargs), "the call", ("fn", "args", "kwargs")
    make: Callable[..., bytes] = dumps
    if store is not None:
        inside = (*args, *kwargs.values()) if kwargs else args
        make = partial(_payload.encode, store=store, inside=inside)
    if not _payload.handles_exist:
        try:
            return make(call, what, parts), []
        except _serialization_error():
            if not _payload.handles_exist:
                raise  # else there is an executor in it, the first to travel
    return handles_in(make, call, what, parts)


def _serialization_error() -> type[BaseException]:
    from unirun._errors import SerializationError

    return SerializationError


def run(payload: bytes) -> tuple[int, bytes]:
    """Decode a call, run it, and return its outcome; raises nothing, whatever the call does.

    But in a process that the call has forked, where an outcome is nobody's.
    """
    pid = os.getpid()
    try:
        prepare_for(payload)
        fn, args, kwargs = decode(payload)
    except BaseException as exc:  # user code runs in there  # noqa: BLE001
        return UNREADABLE, encode_error(exc, 1)
    try:
        value = fn(*args, **kwargs)
        if type(value) is types.CoroutineType:
            value = _run_coroutine(value)
    except BaseException as exc:  # whatever a task raises is its outcome
        if os.getpid() != pid:
            raise
        return RAISED, _encode_raised(exc, fn, args, kwargs)
    if os.getpid() != pid:
        return RETURNED, b""
    try:
        task = _context.current_task()
        name = "the call" if task is None else task.name
        return RETURNED, dumps(value, f"the result of {name}")
    except BaseException as exc:  # SerializationError, or a MemoryError in it  # noqa: BLE001
        return UNSENDABLE, encode_error(exc)


def settle_in(carried: Any) -> None:
    """In the context of a call that is about to begin: be where it was submitted."""
    if carried is None:
        return
    settings, variables = carried[:2]
    if settings is not None:
        _context.blocks.set(settings)
    if variables is not None:
        imported("unirun._variables").arrive(variables)


def decode(payload: bytes) -> Any:
    """The call, be it in these bytes or in memory that they name."""
    if not _payload.is_reference(payload):
        return loads(payload)
    from unirun._blobs import decode  # for large ones only

    return decode(payload)


def prepare_for(data: bytes) -> None:
    """Proxies of multiprocessing's managers authenticate with the key of the caller's run."""
    if b"multiprocessing" in data and _context.authkey is not None:
        import multiprocessing.process as process

        process.current_process().authkey = _context.authkey


def encode_error(exc: BaseException, skip_frames: int = 99) -> bytes:
    """An exception with all that hangs on it; `skip_frames`: how many of its frames are ours."""
    from unirun._remote import encode as encode_exception  # only a call that failed pays for it

    return encode_exception(exc, skip_frames)


def error_of(future: Future[Any], name: str, code: int, data: bytes) -> BaseException:
    """The exception that ends the future of the call of that name."""
    from unirun._call_notes import add_call_note, call_note
    from unirun._remote import decode_told

    error, note = decode_told(data)
    if code == FAILED:
        told, call = future._tell_info(), getattr(future, "number", None)
        about: Any = {"attempt": told["options"].attempt, "worker": told.get("worker") or ""}
        note = call_note(name, call=call, **about)
    if note is not None:
        add_call_note(error, note, site_of(future))
    if code == UNREADABLE:
        from unirun._errors import DeserializationError

        text = f"the worker could not unpickle the call of {name}: {_text(error)}"
        return _because(DeserializationError(text), error)
    if code == UNSENDABLE and not isinstance(error, _serialization_error()):
        from unirun._errors import SerializationError

        text = f"the result of {name} cannot be sent: {_text(error)}"
        return _because(SerializationError(text), error)
    return error


def settle(future: Future[Any], name: str, code: int, data: bytes) -> bool:
    """End `future` with an outcome; False if it had ended before."""
    if code != RETURNED:
        error = error_of(future, name, code, data)
        return future._killed(error) if code == KILLED else future._fail(error)
    try:
        value = loads(data)
    except BaseException as exc:  # user code: SystemExit in a __setstate__ too  # noqa: BLE001
        from unirun._errors import DeserializationError

        text = f"the result of {name} could not be unpickled: {_text(exc)}"
        return future._fail(_because(DeserializationError(text), exc))
    return future._succeed(value)


def _text(exc: BaseException) -> str:
    """Type and message of an exception, whose `__str__` is the user's and may fail."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except BaseException:  # noqa: BLE001  # user code
        return type(exc).__name__


def _because(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _encode_raised(exc: BaseException, fn: Any, args: Any, kwargs: Any) -> bytes:
    """With the note that tells of the call; without its frame here."""
    from unirun._remote import encode_call  # only a call that failed pays for it

    task: Any = _context.current_task()
    return encode_call(exc, task, fn, args, kwargs)


def _run_coroutine(coroutine: Any) -> Any:
    import asyncio

    if asyncio._get_running_loop() is None:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    # The engine's worker is inside a loop of its own already: this one needs a thread.
    with ThreadPoolExecutor(1) as aside:
        return aside.submit(asyncio.run, coroutine).result()
