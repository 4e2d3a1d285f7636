"""A fresh interpreter like this one, and its end: the same flags and `sys.path`, nothing more.

Light by rule: it runs before anything else is imported, so that the two can overlap.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

from unirun._machine import python_executable

from .system import HERE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["reap", "spawn_python"]

_SIGINT, _SIGKILL = 2, 9  # `signal` makes enumerations of them, 1 ms

# Flags of `sys.flags`, and the letter that sets each again. -S and -P are ours to decide.
_LETTERS = (
    ("debug", "d"),
    ("optimize", "O"),
    ("dont_write_bytecode", "B"),
    ("no_user_site", "s"),
    ("ignore_environment", "E"),
    ("verbose", "v"),
    ("bytes_warning", "b"),
    ("quiet", "q"),
    ("isolated", "I"),
)

# Where finders come from that every interpreter has, or that do nothing for a task: setuptools
# leaves one in each environment, which puts its `distutils` before that of the standard library.
_DISPENSABLE = (
    *("_frozen_importlib", "_frozen_importlib_external", "zipimport", "importlib._bootstrap"),
    "_distutils_hack",
)


def spawn_python(call: str, fds: list[int]) -> int:
    """Start an interpreter like this one that runs `call`, with `fds` as 3, 4, ...; its pid.

    It gets our `sys.path` as it is now. `site` is skipped (it costs time) unless import hooks
    were installed, which only `site` can bring back.
    """
    reader, writer = os.pipe()
    try:
        setup = 3 + len(fds)
        code = f"""import sys, marshal, os
sys.path[:] = marshal.loads(os.read({setup}, 1 << 20))
os.closerange({setup}, 65536)
"""  # what else is inheritable here is no business of a worker
        blob = marshal.dumps([str(entry) for entry in sys.path])
        os.set_blocking(writer, False)
        if os.write(writer, blob) < len(blob):
            raise OSError(f"sys.path is longer than a pipe holds ({len(blob)} bytes)")
        return _posix_spawn([*_flags(), "-c", code + call], [*fds, reader])
    finally:
        os.close(reader)
        os.close(writer)


def _flags() -> list[str]:
    """The options this interpreter was started with, so far as they matter to another."""
    flags = [(letter, getattr(sys.flags, name)) for name, letter in _LETTERS]
    options = ["-" + letter * count for letter, count in flags if count]
    options += [f"-W{text}" for text in sys.warnoptions]
    options += [f"-X{name}" if v is True else f"-X{name}={v}" for name, v in sys._xoptions.items()]
    if sys.flags.no_site or not _has_import_hooks():
        options.append("-S")
    options.append("-P")  # sys.path comes from us; looking at a directory that is gone fails
    return options


def _posix_spawn(arguments: list[str], fds: list[int]) -> int:
    # Move everything out of the way of 3, 4, ... first: a target may be one of the sources.
    high: list[int] = []
    try:
        high.extend(_duplicate_above(fd, 3 + len(fds)) for fd in fds)
        high.append(os.open(os.devnull, os.O_RDONLY))
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, high[-1], 0)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + index) for index, fd in enumerate(high[:-1])]
        command = [python_executable(), *arguments]
        # SIGINT is blocked until it is ignored, and the session is its own where that can be had:
        # a Ctrl-C in the terminal is for the program, not for what it starts.
        options: dict[str, Any] = {"file_actions": actions, "setsigmask": [_SIGINT]}
        if "setsid" in HERE:
            try:
                return os.posix_spawn(command[0], command, os.environ, setsid=True, **options)
            except NotImplementedError:
                pass  # not on this system: it does so by itself, once it runs
        return os.posix_spawn(command[0], command, os.environ, **options)
    finally:
        for fd in high:
            os.close(fd)


def _duplicate_above(fd: int, minimum: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(minimum, 16))


def _has_import_hooks() -> bool:
    """Whether something takes part in importing that a worker would miss."""
    return any(getattr(finder, "__module__", "") not in _DISPENSABLE for finder in sys.meta_path)


def reap(pid: int, patience: float = 2.0) -> None:
    """Wait for a child that is about to end; it gets `patience` seconds, then SIGKILL."""
    until = time.monotonic() + patience
    pause = 0.0005
    try:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > until:
                os.kill(pid, _SIGKILL)  # stopped, say
                os.waitpid(pid, 0)
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
    except (ChildProcessError, ProcessLookupError):
        return  # a SIGCHLD handler of the program has reaped it
