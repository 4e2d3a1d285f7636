"""How a worker process comes to life: from the zygote, by spawn, or by fork.

A launcher starts workers and tells how they ended.  All of it runs in the pool's loop thread.
Each worker gets three descriptors: where its tasks come from, where its results go, and the
life-line, whose other end only this process holds.

    zygote   forked from a small process of ours, about 1 ms each (Linux, macOS)
    spawn    a fresh interpreter each, about 20 ms (any POSIX system)
    fork     a copy of this process: inherits everything, with the dangers of forking under threads
"""

from __future__ import annotations

import atexit
import marshal
import os
import signal
import socket
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]
from typing import Any

from unirun._errors import BackendUnavailable

from .zygote import gone

METHODS = ("zygote", "spawn", "fork")


@dataclass(frozen=True, slots=True)
class Started:
    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    worker: int
    status: int | None
    """Exit status, negative for a signal; None if it cannot be known."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Workers cannot be started as they should be; the text says why."""

    text: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The zygote died: how its workers end will not be told any more."""


News = Started | Exited | Trouble | Lost


class Launcher(ABC):
    """Starts workers; owned by the pool, which closes it."""

    local_setup = False
    """Whether a worker has our memory, so that its initializer needs no pickle."""

    works_at_exit = True
    """Whether it can start workers when the interpreter has begun to shut down."""

    @abstractmethod
    def start(self, worker: int, fds: tuple[int, int, int]) -> None:
        """Start one; the caller closes `fds`, which the worker has its own copies of."""

    def attach(self, watch: Callable[[int], object], unwatch: Callable[[int], object]) -> None:
        """How to have `news` called when a descriptor becomes readable; before anything else."""
        self._watch = watch
        self._unwatch = unwatch

    @abstractmethod
    def fds(self) -> list[int]:
        """Descriptors of ours that a forked child of the program must not keep."""

    @abstractmethod
    def news(self) -> list[News]:
        """What happened since; never blocks."""

    def give_up(self) -> None:
        """Nothing is heard of a worker any more: make sure that this comes to an end."""
        return

    @abstractmethod
    def close(self) -> None:
        """Release everything; every worker has ended, or ends now."""


def make(
    method: str, preload: tuple[str, ...], body: Callable[[int, tuple[int, int, int]], None]
) -> Launcher:
    """The launcher for a start method; `body` is what a forked child runs."""
    if os.name != "posix":
        raise BackendUnavailable(
            f"the 'process' backend needs POSIX, this is {sys.platform}; use backend='thread'"
        )
    if method == "zygote":
        return ZygoteLauncher(preload)
    if method == "spawn":
        return SpawnLauncher()
    return ForkLauncher(body)


# -- zygote --------------------------------------------------------------------------------------


class ZygoteLauncher(Launcher):
    def __init__(self, preload: tuple[str, ...]) -> None:
        self._preload = preload
        self._control: socket.socket | None = None  # ours; closed when the zygote ends or we do
        self._pid = 0
        # Workers it has not been asked for yet; with copies of their descriptors, closed then.
        self._unsent: deque[tuple[int, list[int]]] = deque()
        self._news: list[News] = []

    def start(self, worker: int, fds: tuple[int, int, int]) -> None:
        if self._control is None:
            self._start_zygote()
        assert self._control is not None
        if self._unsent or not self._request(worker, list(fds)):
            copies: list[int] = []
            self._unsent.append((worker, copies))
            copies += [os.dup(fd) for fd in fds]

    def _request(self, worker: int, fds: list[int]) -> bool:
        """Ask for a worker; False if the zygote is too far behind to be asked for more."""
        assert self._control is not None
        try:
            socket.send_fds(self._control, [b"F" + worker.to_bytes(8, "little")], fds)
        except BlockingIOError:
            return False
        except OSError:
            self._lose()
            self._news.append(Exited(worker, None))
        return True

    def _start_zygote(self) -> None:
        call = f"from unirun.backends.process.zygote import main; main(3, {list(self._preload)!r})"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._pid = spawn_python(call, [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._control = ours
        self._watch(ours.fileno())

    def fds(self) -> list[int]:
        copies = [fd for _, fds in self._unsent for fd in fds]
        return copies if self._control is None else [self._control.fileno(), *copies]

    def news(self) -> list[News]:
        while self._control is not None:
            try:
                data = self._control.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if data:
                self._note(data)
            else:
                self._lose()
        while self._unsent and self._control is not None and self._request(*self._unsent[0]):
            self._drop_unsent()
        news, self._news = self._news, []
        return news

    def _note(self, data: bytes) -> None:
        code, rest = data[:1], data[1:]
        if code == b"P":
            self._news.append(Trouble(rest.decode(errors="replace")))
            return
        worker = int.from_bytes(rest[:8], "little")
        value = int.from_bytes(rest[8:16], "little", signed=True)
        if code == b"S":
            self._news.append(Started(worker, value))
        else:
            self._news.append(Exited(worker, None if value == -999 else value))

    def give_up(self) -> None:
        """A zygote that is stopped tells nothing; one that is dead is `Lost`."""
        try:
            if self._control is not None:
                os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it died just now, and a SIGCHLD handler of the program has reaped it

    def _lose(self) -> None:
        if self._control is not None:
            self.close()
            self._news.append(Lost())

    def close(self) -> None:
        if self._control is not None:
            self._unwatch(self._control.fileno())
            self._control.close()
            self._control = None
            while self._unsent:
                self._drop_unsent()
            reap(self._pid)

    def _drop_unsent(self) -> None:
        for fd in self._unsent.popleft()[1]:
            os.close(fd)


# -- spawn ---------------------------------------------------------------------------------------


class ChildLauncher(Launcher):
    """Workers that are children of this process."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}  # worker -> pid
        self._pidfds: dict[int, int] = {}  # worker -> pidfd, ours; closed when it is gone
        self._news: list[News] = []

    @abstractmethod
    def _launch(self, worker: int, fds: tuple[int, int, int]) -> int:
        """Make the process and return its pid."""

    def start(self, worker: int, fds: tuple[int, int, int]) -> None:
        pid = self._pids[worker] = self._launch(worker, fds)
        if hasattr(os, "pidfd_open"):
            self._pidfds[worker] = os.pidfd_open(pid)
            self._watch(self._pidfds[worker])
        self._news.append(Started(worker, pid))

    def fds(self) -> list[int]:
        return list(self._pidfds.values())

    def news(self) -> list[News]:
        for worker, pid in list(self._pids.items()):
            status = gone(pid)
            if status is not None:
                self._drop(worker)
                self._news.append(Exited(worker, None if status == -999 else status))
        news, self._news = self._news, []
        return news

    def _drop(self, worker: int) -> None:
        del self._pids[worker]
        pidfd = self._pidfds.pop(worker, None)
        if pidfd is not None:
            self._unwatch(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        for worker, pid in list(self._pids.items()):
            reap(pid)
            self._drop(worker)


class SpawnLauncher(ChildLauncher):
    def _launch(self, worker: int, fds: tuple[int, int, int]) -> int:
        call = "import os\nif os.getsid(0) != os.getpid(): os.setsid()\n"
        call += "from unirun.backends.process.worker import main; main(3, 4, 5)"
        return spawn_python(call, list(fds))


class ForkLauncher(ChildLauncher):
    works_at_exit = sys.version_info < (3, 12)  # "can't fork at interpreter shutdown"
    local_setup = True

    def __init__(self, body: Callable[[int, tuple[int, int, int]], None]) -> None:
        super().__init__()
        self._body = body

    def _launch(self, worker: int, fds: tuple[int, int, int]) -> int:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # else the child would write the same once more
        with warnings.catch_warnings():
            # Python 3.12+ warns of forking under threads; whoever asks for "fork" has been told.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                atexit._clear()  # those are for the end of the program
                _take_away_stdin()
                self._body(worker, fds)
            finally:
                os._exit(1)
        return pid


def _take_away_stdin() -> None:
    """What is typed is for the program; the other start methods give their workers none either."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null:
        os.close(null)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # for as long as the process lives


# -- a fresh interpreter -------------------------------------------------------------------------


def spawn_python(call: str, fds: list[int]) -> int:
    """Start an interpreter like this one that runs `call`, with `fds` as 3, 4, ...; its pid.

    It gets our `sys.path` as it is now. `site` is skipped (it costs time) unless import hooks
    were installed, which only `site` can bring back.
    """
    flags = list(_args_from_interpreter_flags())
    if not _has_import_hooks() and "-S" not in flags:
        flags.append("-S")
    if "-P" not in flags:
        flags.append("-P")  # sys.path comes from us; looking at a directory that is gone fails
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
        return _posix_spawn([*flags, "-c", code + call], [*fds, reader])
    finally:
        os.close(reader)
        os.close(writer)


def _posix_spawn(arguments: list[str], fds: list[int]) -> int:
    # Move everything out of the way of 3, 4, ... first: a target may be one of the sources.
    high = [_duplicate_above(fd, 3 + len(fds)) for fd in fds]
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, null, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, 3 + index) for index, fd in enumerate(high)]
        command = [sys.executable or "python3", *arguments]
        options: dict[str, Any] = {"file_actions": actions, "setsigmask": [signal.SIGINT]}
        # SIGINT is blocked until it is ignored, and the session is its own where that can be had:
        # a Ctrl-C in the terminal is for the program, not for what it starts.
        try:
            return os.posix_spawn(command[0], command, os.environ, setsid=True, **options)
        except NotImplementedError:
            return os.posix_spawn(command[0], command, os.environ, **options)
    finally:
        for fd in (*high, null):
            os.close(fd)


def _duplicate_above(fd: int, minimum: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(minimum, 16))


def _has_import_hooks() -> bool:
    """Whether something other than the standard finders takes part in importing."""
    standard = (
        "_frozen_importlib",
        "_frozen_importlib_external",
        "zipimport",
        "importlib._bootstrap",
    )
    return any(getattr(finder, "__module__", "") not in standard for finder in sys.meta_path)


def reap(pid: int, patience: float = 2.0) -> None:
    """Wait for a child that is about to end; it gets `patience` seconds, then SIGKILL."""
    until = time.monotonic() + patience
    pause = 0.0005
    try:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)  # stopped, say
                os.waitpid(pid, 0)
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
    except (ChildProcessError, ProcessLookupError):
        return  # a SIGCHLD handler of the program has reaped it
