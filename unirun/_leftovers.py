"""The sockets of managers that were killed, and so could not remove them.

Each lies in a directory of its own, whose name says which process made it.  Whoever notices the
end of that process removes it: a client that finds nobody there, the zygote of the process, or
the next manager that is closed.
"""

from __future__ import annotations

import os
import socket
import time

__all__ = ["directory_prefix", "remove_all", "remove_those_of", "temporary_directory"]

SOCKET = "manager"
"""The name of the socket in its directory."""
PREFIX = "unirun-"
BIRTH = 60.0  # seconds in which a socket may not be listened to yet, whatever its process
LAST_MOMENTS = 1.0  # seconds in which the kernel may still be closing what a process had


def directory_prefix() -> str:
    """What the name of a directory for a socket of this process begins with."""
    return f"{PREFIX}{os.getpid()}-"


def temporary_directory() -> str | None:
    """Where such directories are; None if there is no place that can be written to."""
    import tempfile  # it takes 5 ms to import

    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None


def remove(path: str) -> bool:
    """Remove that socket and its directory, unless somebody listens there; whether he does not."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            for undo, what in ((os.unlink, path), (os.rmdir, os.path.dirname(path))):
                try:
                    undo(what)
                except OSError:
                    continue  # somebody was faster
            return True
        except OSError:
            return False  # busy, so it lives; or not ours
    return False


def remove_those_of(pid: int, temporary: str) -> None:
    """Remove what a process has left that has ended just now."""
    until = time.monotonic() + LAST_MOMENTS
    paths = [path for path, of in _found(temporary) if of == pid]
    while (paths := [path for path in paths if not remove(path)]) and time.monotonic() < until:
        time.sleep(0.005)


def remove_all(temporary: str) -> None:
    """Remove what any process has left that is not there any more."""
    for path, pid in _found(temporary):
        if not _is_there(pid) and _age(os.path.dirname(path)) > BIRTH:
            remove(path)


def _found(temporary: str) -> list[tuple[str, int]]:
    """Each socket there may be, and the process that made it."""
    try:
        names = os.listdir(temporary)
    except OSError:
        return []
    found = []
    for name in names:
        number = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and number.isdecimal():
            found.append((os.path.join(temporary, name, SOCKET), int(number)))
    return found


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's; or no process at all
    return True


def _age(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0  # somebody was faster
