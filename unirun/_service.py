"""A thread of this process that answers whoever connects to its socket: for `dump` and for `top`.

The kernel says who is at the other end.  The thread is a daemon and waits for clients only, so it
answers whatever the others of the program wait for.  A forked child does not answer for its parent.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "Service", "number_of", "peer_of"]

PATIENCE = 5.0
"""Seconds to wait for the end of the thread; it has nothing to do but to end."""


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end, as the kernel knows them."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def number_of(pid: int) -> tuple[str, int]:
    """The namespace of a process, and its number there: together one of the machine.

    Numbers of processes are those of a namespace, and containers may share a network or files.
    Raises OSError if there is no such process, or it is somebody else's.
    """
    space = os.readlink(f"/proc/{pid}/ns/pid")
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        numbers = [line.split() for line in file if line.startswith("NSpid:")]
    return space, int(numbers[0][-1]) if numbers else pid


class Service:
    """Calls `answer(client)` in its thread for each client; that closes it."""

    def __init__(self, name: str, answer: Callable[[socket.socket], None]) -> None:
        self._name = name
        self._answer = answer
        # Guards the two below.
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None  # ours; closed by `stop`, or with the process
        self._thread: threading.Thread | None = None
        _services.add(self)

    @property
    def is_on(self) -> bool:
        return self._listener is not None

    def start(self, listen: Callable[[], socket.socket]) -> bool:
        """Answer from now on whoever comes to the socket that `listen` makes; False if it does so
        already. Raises what `listen` raises, and RuntimeError if there is no thread to be had."""
        with self._lock:
            if self._listener is not None:
                return False
            listener = listen()
            try:
                self._thread = threading.Thread(
                    target=self._serve, args=(listener,), name=self._name, daemon=True
                )
                self._listener = listener  # before the thread looks
                self._thread.start()
            except BaseException:
                self._listener = self._thread = None
                listener.close()
                raise
        return True

    def stop(self) -> bool:
        """Answer nobody any more; False if nobody was."""
        with self._lock:
            listener, thread = self._listener, self._thread
            self._listener = self._thread = None
        if listener is None or thread is None:
            return False
        listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        if thread is not threading.current_thread():
            thread.join(PATIENCE)
        listener.close()
        return True

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                if listener is not self._listener:
                    return  # stopped
                threading.Event().wait(0.1)  # out of descriptors, say: nobody can be answered now
                continue
            self._answer(client)

    def forget(self) -> None:
        """In a forked child: the name, the thread and the socket are the parent's."""
        listener, self._listener, self._thread = self._listener, None, None
        self._lock = threading.Lock()
        if listener is not None:
            listener.close()


_services: weakref.WeakSet[Service] = weakref.WeakSet()


def _forget_in_forked_child() -> None:
    for service in list(_services):
        service.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
