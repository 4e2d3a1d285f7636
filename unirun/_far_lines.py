"""Connections between a program and the places where an engine runs its calls.

    place                                     program
      connect ───────────────────────────────▶
      ◀───────────────────────── 32 random bytes
      32 random bytes, MAC of both ──────────▶         nothing else is read before this is right
      ◀────────────────────────────── MAC of both
      frames ◀───────────────────────────────▶

The key of the MAC is drawn for each run and travels with what the engine is given to run, so who
may connect is who the engine trusts.  With TLS all of this is inside of it.  A frame is a length
and a marshalled tuple: both sides have the same minor version of Python, which is asked first.

1. The connection is the session: when it ends, the other side is gone, and so is what it ran.
   Where nobody hangs up (a machine is gone, a network is cut), the kernel ends it after a while
   (`watch`); where a process stands still, so that its kernel goes on answering, that is seen by
   its silence: places `beat`.  A place is not to wait for long, since it has to end what it runs
   before the program takes that for lost and, perhaps, runs it again somewhere else.
2. Whoever sends waits until it is sent, one at a time; one thread receives.
"""

from __future__ import annotations

import marshal
import os
import select
import socket
import threading

from unirun._connect import DIGEST_SIZE, NONCE_SIZE, digest, same

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["BEAT", "Line", "Refused", "arrivals", "dial", "exactly", "welcome"]

BEAT = "beat"
"""A message that says only that its sender lives."""
WATCH = 20.0
"""Seconds without an answer of its kernel, after which the other side is taken for gone."""
HANDSHAKE = 10.0
"""Seconds until both sides must know each other."""
_HEAD = 8
_CHUNK = 1 << 18
_LABEL = "a place of an engine"


class Refused(ConnectionError):
    """The other side does not know the key."""


class Line:
    """One connection. Whoever made it closes it; `close` from another thread ends a `receive`."""

    def __init__(self, sock: socket.socket, *, secure: bool) -> None:
        self._sock = sock
        self._sending = threading.Lock()  # held while one frame is written
        # With TLS reading and writing change the same state: held for each step of either, which
        # never waits.
        self._step = threading.Lock() if secure else None
        self._buffer = bytearray()
        sock.settimeout(0.0 if secure else None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.watch(WATCH)

    def watch(self, seconds: float) -> None:
        """Rule 1: have the kernel end it once nobody has answered for so long."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", max(1, int(seconds / 3))),
            ("TCP_KEEPINTVL", max(1, int(seconds / 6))),
            ("TCP_KEEPCNT", 4),
            ("TCP_USER_TIMEOUT", int(seconds * 1000)),
        ):
            if (option := getattr(socket, name, None)) is not None:
                self._sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def send(self, *message: Any) -> None:
        """Raises OSError once the connection has ended, ValueError for what marshal cannot do."""
        body = marshal.dumps(message)
        head = len(body).to_bytes(_HEAD, "little")
        with self._sending:
            if len(body) < _CHUNK:
                self._write(head + body)
            else:
                self._write(head)
                self._write(body)

    def receive(self, silence: float | None = None) -> tuple[Any, ...]:
        """The next message; raises EOFError or OSError once there will be none.

        `silence`: seconds without a byte after which there will be none.
        """
        head = self._read(_HEAD, silence)
        message = marshal.loads(self._read(int.from_bytes(head, "little"), silence))
        return tuple(message)

    def beat(self) -> None:
        """Say that we live; does not wait for who does not listen. Raises OSError."""
        if not self._sending.acquire(blocking=False):
            return  # something is being said
        try:
            if _is_ready(self._sock, select.POLLOUT, 0.0):
                body = marshal.dumps((BEAT,))
                self._write(len(body).to_bytes(_HEAD, "little") + body)
        finally:
            self._sending.release()

    def write(self, data: bytes) -> None:
        """Send bytes that are no message; the other side has to know."""
        with self._sending:
            self._write(data)

    def read(self) -> bytes:
        """Some of such bytes; none at the end."""
        if data := bytes(self._buffer):
            self._buffer.clear()
            return data
        return self._receive_some(_CHUNK, None)

    def _write(self, data: bytes) -> None:
        if self._step is None:
            self._sock.sendall(data)
            return
        view = memoryview(data)
        while view:
            view = view[self._in_steps(self._sock.send, view[:_CHUNK]) :]

    def _read(self, size: int, silence: float | None) -> bytearray:
        data = self._buffer
        while len(data) < size:
            most = max(_CHUNK, min(size - len(data), 16 * _CHUNK))
            piece = self._receive_some(most, silence)
            if not piece:
                raise EOFError
            data += piece
        self._buffer = data[size:]
        del data[size:]
        return data

    def _receive_some(self, most: int, silence: float | None) -> bytes:
        if self._step is not None:
            return bytes(self._in_steps(self._sock.recv, most, silence))
        # In two halves: where both sides were suspended, the other one shall have time to beat.
        if silence is not None and not (
            _is_ready(self._sock, select.POLLIN, silence / 2)
            or _is_ready(self._sock, select.POLLIN, silence / 2)
        ):
            raise _too_silent(silence)
        return self._sock.recv(most)

    def _in_steps(self, act: Callable[[Any], Any], what: Any, silence: float | None = None) -> Any:
        import ssl  # whoever has a TLS connection has it already

        assert self._step is not None
        in_vain = 0
        while True:
            with self._step:
                try:
                    return act(what)
                except ssl.SSLWantReadError:
                    ready = select.POLLIN
                except ssl.SSLWantWriteError:
                    ready = select.POLLOUT
            in_vain = 0 if _is_ready(self._sock, ready, 1.0) else in_vain + 1
            if silence is not None and in_vain > silence:
                raise _too_silent(silence)

    def close(self) -> None:
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended
        self._sock.close()

    def close_in_fork(self) -> None:
        """Our copy of the descriptor only."""
        self._sock.close()


# -- how they come about --------------------------------------------------------------------------


def dial(
    address: tuple[str, int], key: bytes, security: ssl.SSLContext | None, seconds: float
) -> Line:
    """A connection to the program that made the key; raises OSError, or Refused."""
    sock = socket.create_connection(address, seconds)
    try:
        sock.settimeout(HANDSHAKE)
        if security is not None:
            sock = security.wrap_socket(sock)
        nonces = exactly(sock, NONCE_SIZE) + os.urandom(NONCE_SIZE)
        sock.sendall(nonces[NONCE_SIZE:] + digest(key, b"client", _LABEL, nonces))
        if not same(exactly(sock, DIGEST_SIZE), digest(key, b"server", _LABEL, nonces)):
            raise Refused("whoever answers there does not know the key of this run")
        return Line(sock, secure=security is not None)
    except BaseException:
        sock.close()
        raise


def welcome(sock: socket.socket, key: bytes, security: ssl.SSLContext | None) -> Line:
    """The other side of that, for somebody who has come; raises OSError, or Refused."""
    try:
        sock.settimeout(HANDSHAKE)
        if security is not None:
            sock = security.wrap_socket(sock, server_side=True)
        nonce = os.urandom(NONCE_SIZE)
        sock.sendall(nonce)
        answer = exactly(sock, NONCE_SIZE + DIGEST_SIZE)
        nonces = nonce + answer[:NONCE_SIZE]
        if not same(answer[NONCE_SIZE:], digest(key, b"client", _LABEL, nonces)):
            raise Refused("a stranger with another key")
        sock.sendall(digest(key, b"server", _LABEL, nonces))
        return Line(sock, secure=security is not None)
    except BaseException:
        sock.close()
        raise


def arrivals(listener: socket.socket, is_closed: Callable[[], bool]) -> Iterator[socket.socket]:
    """Who comes there, one after the other, until it is closed."""
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            if is_closed() or listener.fileno() < 0:
                return
            threading.Event().wait(0.1)  # out of descriptors
        else:
            yield sock


def exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes of who introduces itself; raises Refused if it goes away before."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise Refused("the connection ended before both sides knew each other")
        data += piece
    return data


def _is_ready(sock: socket.socket, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), event)
    return bool(poll.poll(seconds * 1000))


def _too_silent(seconds: float) -> TimeoutError:
    return TimeoutError(f"nothing was heard for {seconds:g} s")
