"""The way from places on other machines to the shared objects of the program.

    worker process ── socket ──▶ Entrance ══ a line of the hub, with TLS where that has it ══▶ Exit
                                 (in the engine's worker)                      (in the program) │
                                                              its manager ◀── socket of its own ┘

The manager listens where only this machine comes, as it always does; who is there goes to it
straight (`_connect` decides).  What passes here is the connection itself, so the end of either side
is the end of both, and the two prove to each other who they are through it.

1. Nothing that passes is looked at, but the name of the manager that is asked for.
2. A tunnel belongs to its place: when the line of that has ended, the program closes its tunnels,
   whatever else still lives over there.  What is left of a place that was given up can change
   nothing here any more.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable

from unirun import _connect
from unirun._door import listening_socket
from unirun._far_lines import Line, Refused, arrivals, exactly
from unirun._prompt import Thread

__all__ = ["TUNNEL", "Entrance", "carry", "to_manager"]

TUNNEL = "tunnel"
"""The first message of a line that is one: the place it belongs to, and the manager's name."""
INTRODUCTION = 5.0
"""Seconds in which who comes must have said where he wants to go."""
_CHUNK = 1 << 17


def to_manager(name: str) -> socket.socket:
    """In the program: a connection to one of its managers; raises OSError, or Refused."""
    for address in list(_connect.keys):
        if repr(address) == name:
            family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.connect(address)
                if family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except BaseException:
                sock.close()
                raise
    raise Refused(f"there is no manager {name} in this process")


def carry(sock: socket.socket, line: Line) -> None:
    """Pass on whatever comes, both ways, until either side ends; then close both."""
    back = Thread(_pass_back, "unirun-tunnel-back", (line, sock))
    try:
        back.start()
        while data := sock.recv(_CHUNK):
            line.write(data)
    except (OSError, ValueError, RuntimeError):
        pass  # one side has ended, or there is no thread to be had: then both are to end
    finally:
        line.close()
        _hang_up(sock)
        back.ends_within(None)
        sock.close()  # only now: nobody uses it any more


def _pass_back(line: Line, sock: socket.socket) -> None:
    try:
        while data := line.read():
            sock.sendall(data)
    except (OSError, ValueError):
        pass  # likewise
    finally:
        line.close()
        _hang_up(sock)


def _hang_up(sock: socket.socket) -> None:
    """Wakes who reads from it, or writes."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended


class Entrance:
    """Where the worker processes of a place go in.

    Owns its socket, the directory of that, the thread that accepts, and what passes.
    """

    def __init__(self, dial: Callable[[], Line], host: int) -> None:
        """`dial` makes a line to the program; `host` is what that calls this place."""
        self._dial = dial
        self._host = host
        self._listener, self._directory = listening_socket(None)
        self._listener.setblocking(True)
        self.address: _connect.Address = self._listener.getsockname()
        # Guards what is below.
        self._lock = threading.Lock()
        self._lines: set[Line] = set()
        self._closed = False
        self._thread = Thread(self._accept, "unirun-tunnels")
        self._thread.start()

    def _accept(self) -> None:
        for sock in arrivals(self._listener, lambda: self._closed):
            try:
                Thread(self._let_in, "unirun-tunnel", (sock,)).start()
            except RuntimeError:  # no thread to be had: it may come again
                sock.close()

    def _let_in(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(INTRODUCTION)
            name = _read_name(sock)
            sock.settimeout(None)
            line = self._dial()
        except (OSError, ValueError):
            sock.close()  # which says that there is no way
            return
        with self._lock:
            if not self._closed:
                self._lines.add(line)
        try:
            if line not in self._lines:
                raise OSError("the place is ending")
            line.send(TUNNEL, self._host, name)
        except OSError:
            line.close()
            sock.close()
        else:
            carry(sock, line)
        finally:
            with self._lock:
                self._lines.discard(line)

    def close(self) -> None:
        """Let nobody in any more, and end what passes."""
        with self._lock:
            self._closed = True
            lines = list(self._lines)
        _hang_up(self._listener)  # wakes who accepts
        self._listener.close()
        for line in lines:
            line.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def tell(self) -> str:
        """What worker processes are to know."""
        return _connect.way_as_text(self.address)


def _read_name(sock: socket.socket) -> str:
    size = int.from_bytes(exactly(sock, 2), "little")
    return exactly(sock, size).decode()
