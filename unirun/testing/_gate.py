"""A gate where running calls arrive and wait, so that no test sleeps and hopes.

    test:  gate = Gate()                  call:  hold(gate.address, value)
           arrival = gate.arrival()  <──────────── connects, says who it is
           arrival.release()  ───────────────────> returns value

A connection of TCP on this machine: it works from threads and processes alike, every wait has a
time-out, and its end tells that a body is gone, however it went.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections.abc import Callable
from typing import Self

__all__ = ["PATIENCE", "Arrival", "Gate", "comes_true"]

PATIENCE = 20.0
"""Seconds after which something that should happen soon is taken for hung."""


class Arrival:
    """A call that waits at a gate. Owned by its gate, which closes the connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(PATIENCE)
        self.pid = int.from_bytes(connection.recv(8), "little")

    def release(self) -> None:
        """Let it go on."""
        self._connection.sendall(b"+")

    def is_gone(self) -> bool:
        """Wait until its body has ended, or its process; False if that takes too long."""
        try:
            return not self._connection.recv(1)
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def is_there(self) -> bool:
        """Whether its body still waits, as far as can be seen now."""
        return not select.select([self._connection], [], [], 0)[0]

    def close(self) -> None:
        _hang_up(self._connection)


class Gate:
    """Closed until `open()`; use it as a context manager, which opens it at the end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.settimeout(PATIENCE)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._arrivals: list[Arrival] = []

    def arrival(self) -> Arrival:
        """The next call that arrives; raises TimeoutError if none does."""
        connection, _ = self._listener.accept()
        arrival = Arrival(connection)
        self._arrivals.append(arrival)
        return arrival

    @property
    def last(self) -> Arrival:
        """The one that arrived last."""
        return self._arrivals[-1]

    def arrivals(self, count: int) -> list[Arrival]:
        """The next `count` calls, all of them waiting at the same time."""
        return [self.arrival() for _ in range(count)]

    def is_empty(self) -> bool:
        """Whether nobody else has arrived, as far as can be seen now."""
        return not select.select([self._listener], [], [], 0)[0]

    def open(self) -> None:
        """Let everybody through who waits or ever comes."""
        _hang_up(self._listener)
        for arrival in self._arrivals:
            arrival.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.open()


def _hang_up(connection: socket.socket) -> None:
    """Close it for everybody: a worker that was forked holds a copy of the descriptor."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has ended, or (not on Linux) it is the listener
        return
    finally:
        connection.close()


def comes_true(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Wait for what follows a moment after something else; False if that takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        gc.collect()
        time.sleep(0.001)
    return True
