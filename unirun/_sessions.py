"""Who talks to the host of shared objects: threads of its own process, and connections.

Both are sessions of the coordinator: they take the answers, and their end is a death.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from unirun._channel import FrameReader, frame
from unirun._connect import NONCE_SIZE

MAX_UNREAD: Final = 1 << 20  # bytes a peer leaves unread before we stop reading from it


class Waiter:
    """One request of a thread of this process, until it has its answer."""

    __slots__ = ("gate", "status", "value")

    def __init__(self) -> None:
        self.status: str | None = None
        self.value: Any = None
        self.gate: threading.Lock | None = None  # made, locked, only where one has to wait


class HomeThread:
    """The session of one thread of the owner process."""

    def __init__(self) -> None:
        self._ids = count(1)
        self.next_id = self._ids.__next__
        self.waiters: dict[int, Waiter] = {}  # guarded by the host's lock
        self.seat = 0  # by which cells know it
        self.ident = threading.get_ident()  # whose session it is makes it

    def deliver(self, request_id: int, status: str, value: Any) -> None:
        waiter = self.waiters.pop(request_id)
        waiter.status, waiter.value = status, value
        if waiter.gate is not None:
            waiter.gate.release()


class ThreadEnd:
    """Lives in a thread's locals and dies with them."""

    def __init__(self, session: HomeThread, ended: Callable[[HomeThread], None]) -> None:
        self.session = session
        # Weak: what a thread's locals refer to lives as long as the thread.
        self._ended = weakref.WeakMethod(ended)

    def __del__(self) -> None:
        ended = self._ended()
        if ended is not None:
            ended(self.session)


class Peer:
    """The session of one connection.

    Its socket and `reader` belong to the host's thread, the rest is guarded by the host's lock.
    """

    def __init__(self, sock: socket.socket, has_unsent: Callable[[Peer], None]) -> None:
        self.socket = sock
        self.reader = FrameReader()
        self.nonce = secrets.token_bytes(NONCE_SIZE)
        self.greeting = b""
        self.is_stranger = True
        self.since = self.patience = 0.0  # until when it may be one; see `_door`
        self.last_id = 0  # of its requests, which it numbers
        self.seat = 0  # by which cells know it
        self.watched = 0  # the events the selector looks for
        self._has_unsent = has_unsent
        self._outbox: deque[memoryview] = deque()
        self._unread = 0
        self._deaf = False  # its side is closed; what it still said will be read

    def deliver(self, request_id: int, status: str, value: Any) -> None:
        self.push(frame((request_id, status, value)))

    def introduce(self, data: bytes, fd: int | None) -> None:
        """Push the first words to one who is no stranger any more, and that descriptor with it."""
        if fd is not None and self.socket.family != socket.AF_INET and not self._outbox:
            try:
                data = data[socket.send_fds(self.socket, [data], [fd]) :]
            except OSError:
                pass  # it has no room, or is gone; without the descriptor it will do, too
        if data:
            self.push(data)

    def push(self, data: bytes) -> None:
        """Send it now as far as possible, the rest once the peer takes it; never blocks."""
        self._outbox.append(memoryview(data))
        self._unread += len(data)
        if len(self._outbox) == 1:
            self.flush()
        if self._outbox:
            self._has_unsent(self)

    def flush(self) -> None:
        try:
            while self._outbox:
                sent = self.socket.send(self._outbox[0])
                self._unread -= sent
                if sent < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][sent:]
                else:
                    self._outbox.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._deaf = True
        if self._deaf:
            self._outbox.clear()
            self._unread = 0

    def interest(self) -> int:
        reads = selectors.EVENT_READ if self._unread <= MAX_UNREAD else 0
        return reads | (selectors.EVENT_WRITE if self._outbox else 0)
