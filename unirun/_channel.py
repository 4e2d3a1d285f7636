"""How a process talks to the manager of a shared object: one connection per thread.

A request is answered on the connection it came by, so the connection *is* the session: when the
thread, the process or the machine dies, the manager sees it end.

    client                                manager
      connect, and show that we know the key (`_connect`)
      (id, op, object, args, deadline, last) ─▶        `last`: answer "timeout" if it is later
      ◀────────────────────── (id, status, value)
      id ─────────────────────────────────▶            those items have arrived
      -id ────────────────────────────────▶            forget that request
      [id, -id, (id, bool), …] ───────────▶            instead of all that, on a link: `_links.py`

Frames are marshalled, with their length before them; both sides know each other by then, and are
one program.  Light: a worker imports this when it unpickles its first handle.
"""

from __future__ import annotations

import marshal
import os
import select
import socket
import struct
import threading
import time
import weakref

from unirun import _context
from unirun._connect import (
    Ended,
    TooLate,
    ahead,
    close_in_fork,
    introduced,
    is_end,
    lost,
    seconds_left,
)
from unirun._deferral import interruptible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from unirun._connect import Address

    Limits: TypeAlias = tuple[float | None, float | None, float | None]

GRACE = 0.045  # seconds a client waits past its deadline for an answer that may be on its way
PATIENCE = 1.0  # the same for a request that is not to wait: a busy owner is no empty queue
NO_WAIT = -1.0  # the time-out of such a request

MAX_FRAME = 1 << 30
CHUNK = 1 << 17  # bytes received at once; an item of 64 KiB with room to spare
_HEADER = struct.Struct("<I")
_WAITS = frozenset({"acquire", "get", "get_many", "join", "put", "put_many", "reacquire", "wait"})
# Windows has no such flag: there a send may outlast its time-out while the manager stands still.
_DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)

homes: weakref.WeakValueDictionary[Address, Any] = weakref.WeakValueDictionary()
"""The managers that live in this process; their objects are used without a connection."""


def _as_it_is(value: Any) -> Any:
    return value


arrived: Callable[[Any], Any] = _as_it_is
"""What is done with items before their arrival is acknowledged; `_links` has something to do."""


def limits(timeout: float | None) -> Limits:
    """When a wait is over, when the manager need not try any more, when the client gives up."""
    if timeout is None:
        return None, None, None
    now = time.monotonic()
    if timeout == NO_WAIT:
        return 0.0, now + PATIENCE / 2, now + PATIENCE
    if timeout <= 0:
        return 0.0, now + GRACE / 2, now + GRACE
    if not timeout <= threading.TIMEOUT_MAX:  # NaN too
        raise OverflowError("timeout value is too large")
    deadline = now + timeout
    return deadline, deadline + GRACE / 2, deadline + GRACE


def there(address: Address, when: Limits) -> Limits:
    """The same, as the clock of that manager has it; when the client gives up is its own affair."""
    deadline, last, give_up = when
    if (more := ahead.get(address)) is not None:
        deadline = deadline and deadline + more
        last = last and last + more
    return deadline, last, give_up


def request(
    address: Address,
    op: str,
    object_id: int,
    args: tuple[Any, ...],
    timeout: float | None,
    patient: bool = False,
) -> tuple[str, Any]:
    """Have one request served; returns its status (see `coordinator.py`) and value.

    Returns ("timeout", None) at most 50 ms after the time-out, whatever the manager does, unless
    it is `patient`: then only the manager looks at the time.
    Raises ManagerLost if it cannot be reached or ends.
    """
    when = limits(timeout)
    if patient:
        when = when[0], None, None
    try:
        channel = _own_channel(address, when[2])
    except TooLate:
        return "timeout", None
    return channel.request(op, object_id, args, there(address, when) if ahead else when)


def request_at_once(address: Address, op: str, patience: float) -> tuple[str, Any]:
    """Ask the manager itself what it can answer at once; ("timeout", None) if it does not.

    Raises ManagerLost.
    """
    give_up = time.monotonic() + patience
    try:
        channel = _own_channel(address, give_up)
    except TooLate:
        return "timeout", None
    return channel.request(op, 0, (), (None, None, give_up))


def tell(address: Address, op: str, object_id: int, within: float | None = None) -> None:
    """Send a request that has no answer; nothing happens if nobody takes it in this time."""
    give_up = time.monotonic() + (PATIENCE if within is None else min(within, PATIENCE))
    try:
        channel = _own_channel(address, give_up)
        channel.tell(frame((0, op, object_id, (), None, None)), give_up)
    except (ConnectionError, TooLate):
        pass  # ManagerLost, which the next request says; or it stands still


def is_busy(address: Address) -> bool:
    """Whether this thread's connection is waiting: this is a signal handler, then."""
    channels: dict[Any, Channel] = _local.__dict__
    channel = channels.get(address)
    return channel is not None and channel.busy


# -- frames -----------------------------------------------------------------------------------


def frame(content: Any) -> bytes:
    body = marshal.dumps(content)
    if len(body) > MAX_FRAME:
        from unirun._errors import SerializationError  # heavy, and rarely needed

        text = f"an item of {len(body)} bytes is too large for a shared object"
        raise SerializationError(f"{text}; the limit is {MAX_FRAME}, share a file or its name")
    return _HEADER.pack(len(body)) + body


class FrameReader:
    """Makes frames of what arrives in pieces; only for peers that have proved who they are."""

    __slots__ = ("_buffer", "_need", "_rest")

    def __init__(self) -> None:
        # One for all that is received: making a large one each time costs more than receiving.
        self._buffer = memoryview(bytearray(CHUNK))
        self._rest = bytearray()
        self._need = _HEADER.size  # bytes in `_rest` that make the next step possible

    def receive(self, sock: socket.socket) -> list[Any]:
        """What is complete after one `recv`; raises EOFError at the end of the stream.

        Also EOFError, ValueError or TypeError if what arrives is no frame.
        """
        size = sock.recv_into(self._buffer)
        if not size:
            raise EOFError("it closed the connection")
        if not self._rest:
            return self._split(self._buffer[:size])
        self._rest += self._buffer[:size]
        if len(self._rest) < self._need:
            return []
        whole, self._rest = self._rest, bytearray()
        return self._split(memoryview(whole))

    def _split(self, data: memoryview) -> list[Any]:
        frames = []
        at, end = 0, len(data)
        self._need = _HEADER.size
        while (body := at + _HEADER.size) <= end:
            (size,) = _HEADER.unpack_from(data, at)
            if size > MAX_FRAME:
                raise ValueError(f"a frame of {size} bytes is too large")
            if body + size > end:
                self._need = _HEADER.size + size
                break
            frames.append(marshal.loads(data[body : body + size]))
            at = body + size
        if at < end:
            self._rest += data[at:]
        return frames


# -- connections ------------------------------------------------------------------------------


class Channel:
    """One connection, used and closed by one thread, or by its end."""

    __slots__ = ("_address", "_fragile", "_last_id", "_poll", "_reader", "_socket", "busy", "seat")

    def __init__(self, sock: socket.socket, seat: int, address: Address) -> None:
        self.seat = seat
        self._socket = sock
        self._address = address
        self._poll = Poll(sock)
        self._reader = FrameReader()
        self._last_id = 0
        self._fragile = False  # in the middle of a frame: an interrupted stream is of no use
        self.busy = False

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def check(self) -> None:
        """Raise ManagerLost if the other side has ended."""
        if self.is_over():
            raise lost(self._address, Ended("it has ended"))

    def is_over(self) -> bool:
        """Whether the other side has ended, or this one; then it is closed."""
        try:
            if self.busy or self._socket.recv(1, socket.MSG_PEEK | _DONT_WAIT):
                return False
        except BlockingIOError:
            return False
        except OSError:
            pass  # it has ended in another way, or been closed before
        self.close()
        return True

    def close(self) -> None:
        self._socket.close()

    __del__ = close

    def request(
        self, op: str, object_id: int, args: tuple[Any, ...], when: Limits
    ) -> tuple[str, Any]:
        deadline, last, give_up = when
        self._last_id = request_id = self._last_id + 1
        data = frame((request_id, op, object_id, args, deadline, last))
        self.busy = True
        try:
            self._send(data, give_up)
            note = None if give_up is not None else _context.note_wait
            if note is not None and op in _WAITS:
                note(object_id, request_id)
                status, value = self._reply(request_id, give_up)
                note(0, 0)
            else:
                status, value = self._reply(request_id, give_up)
            if status == "item":
                value = arrived(value)  # before the manager lets go of it
                self._send(frame(request_id), give_up)
            elif op == "acquire" and status == "ok":
                self._send(frame(request_id), give_up)  # so that a lock can return to its cell
        except TooLate:
            self._forget(request_id)
            return "timeout", None
        except BaseException as exc:
            if is_end(exc):
                self.close()
                raise lost(self._address, exc) from exc
            self._forget(request_id)  # KeyboardInterrupt, or what any signal handler raises
            raise
        finally:
            self.busy = False
        return status, value

    def tell(self, data: bytes, give_up: float) -> None:
        self.busy = True
        try:
            self._send(data, give_up)
        except BaseException as exc:
            if self._fragile or is_end(exc):
                self.close()
            if not is_end(exc):
                raise
        finally:
            self.busy = False

    def _reply(self, request_id: int, give_up: float | None) -> tuple[str, Any]:
        while True:
            self._await_data(give_up)
            self._fragile = True
            replies = self._frames()
            self._fragile = False
            for got, status, value in replies:
                if got == request_id:  # others were forgotten
                    return status, value

    def _await_data(self, give_up: float | None) -> None:
        if give_up is not None:
            self._poll.wait(give_up)
        else:
            # The system wakes us twice as soon from here as from a poll.  It takes nothing: an
            # interrupt must leave the stream whole.
            interruptible(self._socket.recv, 1, socket.MSG_PEEK)

    def _frames(self) -> list[Any]:
        try:
            return self._reader.receive(self._socket)
        except (ValueError, EOFError, TypeError) as exc:
            raise Ended(str(exc)) from exc

    def _send(self, data: bytes, give_up: float | None) -> None:
        """Send all of it.  The server never waits for us, so neither side can wait for both."""
        self._fragile = True
        sent = self._send_some(data)
        while sent < len(data):
            self._poll.wait(give_up, writable=True)
            sent += self._send_some(memoryview(data)[sent:])
        self._fragile = False

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data, _DONT_WAIT)
        except BlockingIOError:
            return 0

    def _forget(self, request_id: int) -> None:
        """Nobody waits for that answer any more: what it holds goes back.

        A message rather than the end of the connection, which would release the locks this
        thread holds.
        """
        if not self._fragile:
            data = frame(-request_id)
            try:
                if self._socket.send(data, _DONT_WAIT) == len(data):
                    return
            except OSError:
                pass  # full or broken; its end says the same
        self.close()


def _connected(address: Address, give_up: float | None) -> Channel:
    return Channel(*introduced(address, give_up), address)


def seat(address: Address, give_up: float | None) -> int:
    """The number of this thread's session; raises ManagerLost, or TooLate at `give_up`."""
    channels: dict[Any, Channel] = _local.__dict__
    channel = channels.get(address)
    if channel is None or channel.closed:
        channel = _own_channel(address, give_up)
    return channel.seat


def check(address: Address) -> None:
    """Raise ManagerLost if there is no manager there any more."""
    try:
        channel = _own_channel(address, time.monotonic() + PATIENCE)
    except TooLate:
        return  # it stands still
    channel.check()


class Poll:
    """Waits for one socket; `poll` where there is one, since `select` ends at descriptor 1023."""

    __slots__ = ("_poll", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(sock, select.POLLIN)

    def wait(self, give_up: float | None, *, writable: bool = False) -> None:
        """Return when the socket is ready; raise TooLate at `give_up`."""
        ready = False
        while not ready:
            try:
                left = seconds_left(give_up)
            except TooLate:
                if self._ready(0.0, writable):
                    return  # it was in time, and we are late
                raise
            ready = interruptible(self._ready, left, writable)

    def _ready(self, left: float | None, writable: bool) -> bool:
        if self._poll is None:
            reads, writes = ([], [self._socket]) if writable else ([self._socket], [])
            return any(select.select(reads, writes, [], left))
        if not writable:
            return bool(self._poll.poll(None if left is None else left * 1000))
        self._poll.modify(self._socket, select.POLLOUT)
        try:
            return bool(self._poll.poll(None if left is None else left * 1000))
        finally:
            self._poll.modify(self._socket, select.POLLIN)


# Each thread's own, by address; a Channel goes with its thread.
_local = threading.local()


def _own_channel(address: Address, give_up: float | None) -> Channel:
    channels: dict[Any, Channel] = _local.__dict__
    channel = channels.get(address)
    if channel is not None and not channel.closed:
        if not channel.busy:
            return channel
        # A signal handler interrupted a request of this very thread: its own goes beside.
        return _connected(address, give_up)
    for other, old in list(channels.items()):
        if old.is_over():
            del channels[other]
    channels[address] = channel = _connected(address, give_up)
    return channel


def _after_fork_in_child() -> None:
    close_in_fork()
    homes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
