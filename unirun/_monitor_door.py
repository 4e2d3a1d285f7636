"""Where a program that may be watched is found: a socket in a directory that only its user enters.

1. The directory is the user's own, with mode 0700, and no link; else nothing is made or looked for
   there.  The socket has mode 0600.  Whoever connects asks the kernel who is at the other end.
2. A socket has its last name only once somebody listens there, so one that refuses connections is
   that of a program that is dead: whoever comes by removes it.
"""

from __future__ import annotations

import os
import socket
import stat
import time

from unirun._errors import ConfigError
from unirun._leftovers import temporary_directory
from unirun._service import number_of

__all__ = ["connect", "directory", "found", "listen", "name_of", "remove"]

SUFFIX = ".sock"
BIRTH = 60.0
"""Seconds that a socket may be without a listener: its program is about to listen."""


def directory(*, make: bool = False) -> str | None:
    """Where the sockets of this user are; None if there is no such directory, and none is made.

    Raises ConfigError for one that others can enter, or have made.
    """
    place = os.environ.get("XDG_RUNTIME_DIR") or ""
    if not os.path.isdir(place) or os.stat(place).st_uid != os.geteuid():
        place = temporary_directory() or ""
    path = os.path.join(place, f"unirun_top_{os.geteuid()}")
    if make:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
    try:
        seen = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o077:
        raise ConfigError(
            f"{path} is not a directory that only this user can enter; remove it, or set "
            "XDG_RUNTIME_DIR to one that is"
        )
    return path


def name_of(pid: int) -> str:
    """Of the socket of that process; raises OSError if there is none, or it is somebody else's."""
    space, number = number_of(pid)
    return f"{''.join(filter(str.isdigit, space))}-{number}{SUFFIX}"


def listen() -> tuple[socket.socket, str]:
    """A socket for this process, and its path. Raises ConfigError and OSError."""
    place = directory(make=True)
    assert place is not None
    sweep(place)
    path = os.path.join(place, name_of(os.getpid()))
    fresh = f"{path}.new"
    listener = socket.socket(socket.AF_UNIX)
    try:
        _at(fresh, listener.bind)
        os.chmod(fresh, 0o600)
        listener.listen(8)
        os.rename(fresh, path)
    except BaseException:
        listener.close()
        remove(fresh)
        raise
    return listener, path


def _at(path: str, do: object) -> None:
    """`bind` or `connect`, however long the path is: these names end after 108 bytes."""
    there = os.open(os.path.dirname(path), os.O_PATH | os.O_CLOEXEC)
    try:
        do(f"/proc/self/fd/{there}/{os.path.basename(path)}")  # type: ignore[operator]
    finally:
        os.close(there)


def connect(path: str, seconds: float) -> socket.socket:
    """Raises OSError: nobody listens, or nobody accepts in that time."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(seconds)
        _at(path, sock.connect)
    except BaseException:
        sock.close()
        raise
    return sock


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return  # somebody was faster


def found() -> list[int]:
    """Processes of this user that can be watched. Those of other namespaces are not told of."""
    place = directory()
    if place is None:
        return []
    sweep(place)
    space = name_of(os.getpid()).partition("-")[0]
    numbers = []
    for name in os.listdir(place):
        of, _, rest = name.partition("-")
        number = rest.removesuffix(SUFFIX)
        if of == space and rest.endswith(SUFFIX) and number.isdecimal():
            numbers.append(int(number))
    return sorted(numbers)


def sweep(place: str) -> None:
    """Rule 2."""
    for name in os.listdir(place):
        path = os.path.join(place, name)
        try:
            seen = os.lstat(path)
            is_young = name.endswith(".new") and time.time() - seen.st_mtime < BIRTH
            if is_young or not stat.S_ISSOCK(seen.st_mode):
                continue
            connect(path, 0.0).close()
        except ConnectionRefusedError:
            remove(path)
        except OSError:
            continue  # busy, so it lives; or it is gone already
