"""A program that can be asked from outside what it is doing: `python -m unirun dump PID`.

    unirun dump PID ──> abstract Unix socket, served by a thread of the program ──> `_dump.dump()`
                   └──> no answer, since C code holds the GIL: a signal, see `_dump_signal`

1. Text goes out and nothing comes in: whatever a client sends is never read.
2. The kernel says who is at the other end.  The program answers its own user and root; the client
   believes only the process it asked for.  An abstract name is no file: nothing can be left behind.
3. The thread is a daemon and waits for clients only, so it answers whatever the others wait for.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import warnings

from unirun import _dump_signal
from unirun._dump import dump
from unirun._errors import ConfigError

__all__ = ["address_of", "disable_dump", "enable_by_setting", "enable_dump", "peer_of"]

PATIENCE = 5.0
"""Seconds a client may take to read the text."""

# Guards _listener and _thread.
_lock = threading.Lock()
_listener: socket.socket | None = None  # ours; closed by `disable_dump`, or with the process
_thread: threading.Thread | None = None


def address_of(pid: int) -> str:
    """Where the process of that id is asked; the leading zero makes the name abstract.

    Numbers of processes are those of a namespace, and containers may share a network: so the name
    says both.  Raises OSError if there is no such process, or it is somebody else's.
    """
    space = os.readlink(f"/proc/{pid}/ns/pid")
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        numbers = [line.split() for line in file if line.startswith("NSpid:")]
    number = numbers[0][-1] if numbers else pid
    return f"\0unirun-dump-{space}-{number}"


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end, as the kernel knows them."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def enable_dump() -> None:
    """Let `python -m unirun dump PID` ask this process what its executors are doing.

    The same as the setting `dump`, or UNIRUN_DUMP=1. Only the user it runs as, and root, are
    answered. May be called again.

    Raises:
        ConfigError: not on this system; it needs Linux.
        OSError: out of descriptors or threads.
    """
    global _listener, _thread
    if sys.platform != "linux":
        raise ConfigError(
            "a program can be asked for a dump on Linux only; call unirun.dump() in it instead"
        )
    with _lock:
        if _listener is not None:
            return
        _dump_signal.arm()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(address_of(os.getpid()))
            listener.listen(8)
            thread = threading.Thread(
                target=_serve, args=(listener,), name="unirun-dump", daemon=True
            )
            thread.start()
        except BaseException:
            listener.close()
            raise
        _listener, _thread = listener, thread


def enable_by_setting() -> None:
    """As `enable_dump`; what prevents it is no reason not to work."""
    try:
        enable_dump()
    except (OSError, RuntimeError, ConfigError) as exc:
        text = f"the setting dump has no effect: {exc}; call unirun.dump() in the program instead"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def disable_dump() -> None:
    """Answer nobody any more."""
    global _listener, _thread
    with _lock:
        listener, thread, _listener, _thread = _listener, _thread, None, None
    if listener is not None and thread is not None:
        listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        if thread is not threading.current_thread():
            thread.join(PATIENCE)
        listener.close()
        _dump_signal.close()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            if listener is not _listener:
                return  # disabled
            threading.Event().wait(0.1)  # out of descriptors, say: nobody can be answered now
            continue
        with client:
            _answer(client)


def _answer(client: socket.socket) -> None:
    try:
        if peer_of(client)[1] not in (os.geteuid(), 0):
            return
        client.settimeout(PATIENCE)
        client.sendall(dump().encode("utf-8", "backslashreplace"))
    except OSError:
        return  # it has gone, or does not read


def _forget_in_forked_child() -> None:
    """The name, the thread and the socket are the parent's."""
    global _lock, _listener, _thread
    listener, _listener, _thread = _listener, None, None
    _lock = threading.Lock()
    if listener is not None:
        listener.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_forked_child)
