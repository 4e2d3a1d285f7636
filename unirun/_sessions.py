"""Who talks to the host of shared objects: threads of its own process, and connections.

Both are sessions of the coordinator: they take the answers, and their end is a death.  The door by
which connections come is here too.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shutil
import socket
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from unirun._channel import NONCE_SIZE, FrameReader, frame
from unirun._errors import ConfigError

HANDSHAKE_TIMEOUT: Final = 5.0
LONGEST_UNIX_PATH: Final = 100  # 104 on macOS, 108 on Linux
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
        self.patience = time.monotonic() + HANDSHAKE_TIMEOUT
        self.watched = 0  # the events the selector looks for
        self._has_unsent = has_unsent
        self._outbox: deque[memoryview] = deque()
        self._unread = 0
        self._deaf = False  # its side is closed; what it still said will be read

    def deliver(self, request_id: int, status: str, value: Any) -> None:
        self.push(frame((request_id, status, value)))

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


def listen(family: str | None) -> tuple[socket.socket, str | None]:
    """A listening socket, and the directory to remove after it."""
    if family not in (None, "AF_UNIX", "AF_INET"):
        raise ConfigError(f"unknown family {family!r}; it is 'AF_UNIX', 'AF_INET' or None")
    unix = getattr(socket, "AF_UNIX", None) if family != "AF_INET" else None
    directory = None
    if unix is not None:
        directory = tempfile.mkdtemp(prefix="unirun-")  # for this user only
        path = os.path.join(directory, "manager")
        if len(os.fsencode(path)) <= LONGEST_UNIX_PATH:
            return _bound(unix, path, directory), directory
        shutil.rmtree(directory)
    if family == "AF_UNIX":
        why = "this system has none" if unix is None else f"{path!r} is too long; set TMPDIR"
        raise ConfigError(f"no unix socket for shared objects: {why}")
    return _bound(socket.AF_INET, ("127.0.0.1", 0), None), None


def _bound(family: int, address: Any, directory: str | None) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    return listener
