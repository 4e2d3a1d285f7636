"""Queues in a manager for coroutines: `await q.aget()`, `aput`, `ajoin`, `async for item in q`.

A coroutine first tries without waiting, as any thread does.  What has to wait goes by a connection
of its event loop's own, which the loop reads: no thread waits for anything.

    coroutine ── ask ──▶ ┌──────────────┐ ── (id, op, …) ─────────▶
    coroutine ◀─ future ─│ AsyncChannel │ ◀─ (id, status, value) ── the manager
                         └──────────────┘ ── id or -id ───────────▶

The protocol is that of `_channel.py`, with many requests at a time.  An item is acknowledged by the
very coroutine that returns it; if that was cancelled meanwhile, the manager is told to forget the
request and puts the item back where it was.
"""

from __future__ import annotations

import queue
import time
import weakref

from unirun import _channel
from unirun._channel import GRACE, FrameReader, frame, limits, there
from unirun._connect import Ended, TooLate, connect, lost
from unirun._handles import SharedObject, dump, load
from unirun._links import BRINGS, brings_handles
from unirun._segments import AGAIN
from unirun._thread_queues import ShutDown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import socket
    from typing import Any, Self

    from unirun._connect import Address

__all__ = ["ITEM", "AsyncSharedQueue", "AsyncSharedSimpleQueue"]

ITEM = "queue item"
RETRY = 0.001  # seconds until the manager is asked again
CONNECT = 0.2  # seconds the loop may stand still for a connection; a manager takes a thousandth

# What one connection is kept by is its loop: it goes when the loop is closed.
_channels: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, weakref.WeakValueDictionary[Address, AsyncChannel]
] = weakref.WeakKeyDictionary()


class AsyncSharedSimpleQueue(SharedObject):
    """What every shared queue has for coroutines, of any number of event loops."""

    __slots__ = ()

    async def aget(self, timeout: float | None = None) -> Any:
        """`get` for a coroutine; raises `queue.Empty` if there is none within `timeout` seconds.

        Raises ShutDown as `get` does.  The event loop runs at least once before an item is
        taken, and a coroutine that is cancelled has taken none.
        """
        from asyncio import sleep

        wait = self._get_timeout(True, timeout)
        await sleep(0)  # who gets from a full queue must leave the others a chance
        try:
            return self.get(False)
        except queue.Empty:
            if wait is not None and wait <= 0:
                raise
        status, value = await _ask(self, "get", (), wait)
        if status == "item":
            return load(value, ITEM)
        raise queue.Empty if status == "timeout" else ShutDown

    async def aput(self, item: Any, timeout: float | None = None) -> None:
        """`put` for a coroutine; `timeout` is ignored, since there is always room."""
        from asyncio import sleep

        await sleep(0)
        self.put(item)

    if TYPE_CHECKING:

        def get(self, block: bool = True, timeout: float | None = None) -> Any: ...
        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None: ...
        def _get_timeout(self, block: bool, timeout: float | None) -> float | None: ...


class AsyncSharedQueue(AsyncSharedSimpleQueue):
    """What those have that count tasks and can be shut down."""

    __slots__ = ()

    async def aput(self, item: Any, timeout: float | None = None) -> None:
        """`put` for a coroutine; raises `queue.Full` if there is no room within `timeout` seconds.

        Raises ShutDown as `put` does.  The event loop runs at least once before the item is put.
        A coroutine that is cancelled puts nothing later; only if it was cancelled in the moment in
        which there was room, the item may be in the queue.
        """
        from asyncio import sleep

        wait = self._put_timeout(True, timeout)
        await sleep(0)
        try:
            self.put(item, False)
            return
        except queue.Full:
            if wait is not None and wait <= 0:
                raise
        args = (dump(item, ITEM), self._priority(item))
        status, _ = await _ask(self, "put", args, wait)
        if status != "ok":
            raise queue.Full if status == "timeout" else ShutDown

    async def ajoin(self) -> None:
        """`join` for a coroutine: wait until `task_done` was called for every item put."""
        await _ask(self, "join", (), None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next item, until the queue is shut down and empty."""
        try:
            return await self.aget()
        except ShutDown:
            raise StopAsyncIteration from None

    if TYPE_CHECKING:

        def _put_timeout(self, block: bool, timeout: float | None) -> float | None: ...
        def _priority(self, item: Any) -> Any: ...


async def _ask(
    handle: SharedObject, op: str, args: tuple[Any, ...], timeout: float | None
) -> tuple[str, Any]:
    """Have one request served; as `SharedObject._ask`, while the loop goes on."""
    import asyncio

    end = None if timeout is None else time.monotonic() + timeout
    while (answer := await _ask_once(handle, op, args, timeout))[0] == AGAIN:
        await asyncio.sleep(RETRY)  # somebody was inside the cell of the queue
        if end is not None:
            if time.monotonic() >= end + GRACE:
                return "timeout", None
            timeout = max(0.0, end - time.monotonic())
    return answer


async def _ask_once(
    handle: SharedObject, op: str, args: tuple[Any, ...], timeout: float | None
) -> tuple[str, Any]:
    import asyncio

    if brings_handles(args):
        op = BRINGS + op
    deadline, last, give_up = limits(timeout)
    channel = await _own_channel(handle._address, give_up)
    if channel is None:
        return "timeout", None
    deadline, last, _ = there(handle._address, (deadline, last, None))
    request_id, answer = channel.send(op, handle._object_id, args, deadline, last)
    connection = weakref.ref(channel)
    del channel  # if the loop is closed while we wait, so is the connection: nothing else keeps it
    try:
        left = None if give_up is None else max(0.0, give_up - time.monotonic())
        await asyncio.wait((answer,), timeout=left)
    except GeneratorExit:  # by the collector, anywhere
        channel = connection()
        if channel is not None:
            channel.forget_soon(request_id)
        raise
    except BaseException:
        _forget(connection, request_id)
        await _settled(connection, handle)
        raise
    if not answer.done():
        _forget(connection, request_id)
        return "timeout", None
    status, value = answer.result()
    if status == "item":
        value = _channel.arrived(value)  # before the manager lets go of it
        _acknowledge(connection, request_id, handle._address)
    elif status == "gone":
        raise value
    else:
        handle._check(status, value)
    return status, value


def _forget(connection: weakref.ref[AsyncChannel], request_id: int) -> None:
    channel = connection()
    if channel is not None:
        channel.forget(request_id)


async def _settled(connection: weakref.ref[AsyncChannel], handle: SharedObject) -> None:
    """Wait until the manager has forgotten what it was told to; not long, if it stands still.

    Without that, what was cancelled might still take effect when everybody believes it has not.
    """
    import asyncio

    channel = connection()
    if channel is not None and not channel.closed:
        answer = channel.send("state", handle._object_id, (), None, None)[1]
        del channel  # as above
        await asyncio.wait((answer,), timeout=CONNECT)


def _acknowledge(connection: weakref.ref[AsyncChannel], request_id: int, address: Address) -> None:
    channel = connection()
    if channel is not None:
        channel.acknowledge(request_id)
    if channel is None or channel.closed:  # the manager has put it back, if it lives
        raise lost(address, Ended("it closed the connection"))


async def _own_channel(address: Address, give_up: float | None) -> AsyncChannel | None:
    """The connection of the running loop; None if that takes too long."""
    import asyncio

    loop = asyncio.get_running_loop()
    while True:
        channels = _channels.setdefault(loop, weakref.WeakValueDictionary())
        channel = channels.get(address)
        if channel is not None and not channel.closed:
            return channel
        soon = time.monotonic() + CONNECT
        try:
            sock = connect(address, soon if give_up is None else min(soon, give_up))
        except TooLate:
            if give_up is not None and give_up <= time.monotonic():
                return None
        else:
            channels[address] = channel = AsyncChannel(sock, address, loop)
            return channel
        await asyncio.sleep(CONNECT)  # the manager stands still; this loop need not


class AsyncChannel:
    """One connection; used in the thread of its loop, which keeps it and closes it by its end."""

    def __init__(
        self, sock: socket.socket, address: Address, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._socket = sock
        self._address = address
        self._loop = loop
        self._reader = FrameReader()
        self._last_id = 0
        self._answers: dict[int, asyncio.Future[tuple[str, Any]]] = {}
        self._out = bytearray()  # what the manager has not taken yet
        sock.setblocking(False)
        try:
            loop.add_reader(sock, self._read)
        except NotImplementedError as exc:
            sock.close()
            raise TypeError(
                f"a {type(loop).__name__} cannot wait for a shared queue, since it watches no "
                "sockets; run asyncio with a SelectorEventLoop"
            ) from exc

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def __del__(self) -> None:
        self._socket.close()

    def send(
        self,
        op: str,
        object_id: int,
        args: tuple[Any, ...],
        deadline: float | None,
        last: float | None,
    ) -> tuple[int, asyncio.Future[tuple[str, Any]]]:
        """Send a request; returns its id, and what will have the status and value."""
        self._last_id = request_id = self._last_id + 1
        data = frame((request_id, op, object_id, args, deadline, last))
        answer = self._answers[request_id] = self._loop.create_future()
        self._send(data)
        return request_id, answer

    def acknowledge(self, request_id: int) -> None:
        """Its items have arrived."""
        self._send(frame(request_id))

    def forget(self, request_id: int) -> None:
        """Nobody waits for that answer any more: what it holds goes back."""
        self._answers.pop(request_id, None)
        self._send(frame(-request_id))

    def forget_soon(self, request_id: int) -> None:
        """The same from any thread, in the middle of anything."""
        try:
            self._loop.call_soon_threadsafe(self.forget, request_id)
        except RuntimeError:
            self._socket.close()  # the loop is closed, and with this all that was asked for

    def _send(self, data: bytes) -> None:
        if self.closed:
            return  # whoever waits has been told
        waits = bool(self._out)
        self._out += data
        if not waits and not self._flush():
            self._loop.add_writer(self._socket, self._go_on)

    def _go_on(self) -> None:
        if self._flush() and not self.closed:
            self._loop.remove_writer(self._socket)

    def _flush(self) -> bool:
        """Whether everything is sent, or nothing will be any more."""
        try:
            del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            return False
        except OSError as exc:
            self._end(exc)
            return True
        return not self._out

    def _read(self) -> None:
        try:
            answers = self._reader.receive(self._socket)
        except BlockingIOError:
            return
        except (OSError, EOFError, ValueError, TypeError) as exc:
            self._end(exc)
            return
        for request_id, status, value in answers:
            answer = self._answers.pop(request_id, None)
            if answer is not None and not answer.done():
                answer.set_result((status, value))

    def _end(self, exc: Exception) -> None:
        """The connection is of no use any more."""
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._out.clear()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_result(("gone", lost(self._address, exc)))
