"""A program that can be asked from outside what it is doing: `python -m unirun dump PID`.

    unirun dump PID ──> abstract Unix socket, served by a thread of the program ──> `_dump.dump()`
                   └──> no answer, since C code holds the GIL: a signal, see `_dump_signal`

1. Text goes out and nothing comes in: whatever a client sends is never read.
2. The kernel says who is at the other end.  The program answers its own user and root; the client
   believes only the process it asked for.  An abstract name is no file: nothing can be left behind.
3. Clients are answered one after the other, by a thread that waits for nothing else.
"""

from __future__ import annotations

import os
import socket
import sys
import warnings

from unirun import _dump_signal
from unirun._dump import dump
from unirun._errors import ConfigError
from unirun._service import PATIENCE, Service, number_of, peer_of

__all__ = ["address_of", "disable_dump", "enable_by_setting", "enable_dump", "peer_of"]


def address_of(pid: int) -> str:
    """Where the process of that id is asked; the leading zero makes the name abstract.

    Raises OSError if there is no such process, or it is somebody else's.
    """
    space, number = number_of(pid)
    return f"\0unirun-dump-{space}-{number}"


def enable_dump() -> None:
    """Let `python -m unirun dump PID` ask this process what its executors are doing.

    The same as the setting `dump`, or UNIRUN_DUMP=1. Only the user it runs as, and root, are
    answered. May be called again.

    Raises:
        ConfigError: not on this system; it needs Linux.
        OSError: out of descriptors or threads.
    """
    if sys.platform != "linux":
        raise ConfigError(
            "a program can be asked for a dump on Linux only; call unirun.dump() in it instead"
        )
    _service.start(_listen)


def _listen() -> socket.socket:
    _dump_signal.arm()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address_of(os.getpid()))
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


def enable_by_setting() -> None:
    """As `enable_dump`; what prevents it is no reason not to work."""
    try:
        enable_dump()
    except (OSError, RuntimeError, ConfigError) as exc:
        text = f"the setting dump has no effect: {exc}; call unirun.dump() in the program instead"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def disable_dump() -> None:
    """Answer nobody any more."""
    if _service.stop():
        _dump_signal.close()


def _answer(client: socket.socket) -> None:
    with client:
        try:
            if peer_of(client)[1] not in (os.geteuid(), 0):
                return
            client.settimeout(PATIENCE)
            client.sendall(dump().encode("utf-8", "backslashreplace"))
        except OSError:
            return  # it has gone, or does not read


_service = Service("unirun-dump", _answer)
