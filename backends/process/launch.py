"""How a worker process comes to life: from the zygote, by spawn, or by fork.

A launcher starts workers and tells how they ended.  All of it runs in the pool's loop thread.
Each worker gets descriptors: where its tasks come from, where its results go, the life-line, whose
other end only this process holds, and the memory it shares with us, if any.

    zygote   forked from a small process of ours, about 1 ms each (Linux, macOS)
    spawn    a fresh interpreter each, about 20 ms (any POSIX system)
    fork     a copy of this process: inherits everything, with the dangers of forking under threads
"""

from __future__ import annotations

import _socket
import atexit
import marshal
import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from errno import EAGAIN, EMFILE, ENFILE, ENOBUFS, ENOMEM, ETOOMANYREFS

from unirun._errors import BackendUnavailable
from unirun._records import record

from . import early
from .ends import NEVER_MADE, UNKNOWN, gone
from .interpreter import reap, spawn_python
from .limits import is_stopped
from .system import HERE, lead_group, open_pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    Fds: TypeAlias = tuple[int, ...]
    """What a worker gets, in the order of the parameters of `worker.main`; see `zygote.MAX_FDS`."""


_NOTHING: Mapping[str, str] = {}

SCARCE = frozenset({EAGAIN, ENOMEM, EMFILE, ENFILE, ENOBUFS, ETOOMANYREFS})
"""The errors of a system that has no process, memory or descriptor to give just now."""


def is_scarcity(error: BaseException) -> bool:
    """Whether that may be over in a moment."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SCARCE)


# As numbers, since `signal` and `socket` build enumerations of all they know when imported.
_SIGKILL = 9
_SOL_SOCKET, _SCM_RIGHTS = _socket.SOL_SOCKET, _socket.SCM_RIGHTS


@record
class Started:
    worker: int
    pid: int


@record
class Exited:
    worker: int
    status: int | None
    """Exit status, negative for a signal; None if it cannot be known."""


@record
class Trouble:
    """Workers cannot be started as they should be; the text says why."""

    text: str


@record
class Lost:
    """The zygote died: how its workers end will not be told any more."""

    last: int
    """Those with a higher number are not its workers, but of the one that took its place."""


if TYPE_CHECKING:
    News: TypeAlias = Started | Exited | Trouble | Lost


class Launcher(ABC):
    """Starts workers; owned by the pool, which closes it."""

    local_setup = False
    """Whether a worker has our memory, so that its initializer needs no pickle."""

    works_at_exit = True
    """Whether it can start workers when the interpreter has begun to shut down."""

    tells = True
    """Whether a descriptor tells when there is news; else somebody has to look."""

    nests = False
    """Whether tasks are lent workers; the pool says so, and those will submit calls as well."""

    @abstractmethod
    def start(self, worker: int, fds: Fds) -> None:
        """Start one; the caller closes `fds`, which the worker has its own copies of."""

    def attach(self, watch: Callable[[int], object], unwatch: Callable[[int], object]) -> None:
        """How to have `news` called when a descriptor becomes readable; before anything else."""
        self._watch = watch
        self._unwatch = unwatch

    @abstractmethod
    def fds(self) -> list[int]:
        """In a forked child of the program: descriptors of ours that it must close."""

    @abstractmethod
    def news(self) -> list[News]:
        """What happened since; never blocks."""

    def give_up(self) -> None:
        """Nothing is heard of a worker any more: make sure that this comes to an end."""
        return

    def gives_up_stopped(self) -> bool:
        """`give_up` if whoever should tell of the workers has been stopped; whether that was so."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Release everything; every worker has ended, or ends now."""


def make(
    method: str,
    preload: tuple[str, ...],
    environment: Mapping[str, str],
    body: Callable[[int, Fds], None],
) -> Launcher:
    """The launcher for a start method; `body` is what a forked child runs.

    `environment` is added to that of the process in which `preload` is imported.
    """
    if os.name != "posix":
        raise BackendUnavailable(
            f"the 'process' backend needs POSIX, this is {sys.platform}; use backend='thread'"
        )
    if method == "zygote":
        return ZygoteLauncher(preload, environment)
    if method == "spawn":
        return SpawnLauncher()
    return ForkLauncher(body)


# -- zygote --------------------------------------------------------------------------------------


class ZygoteLauncher(Launcher):
    def __init__(self, preload: tuple[str, ...], environment: Mapping[str, str] = _NOTHING) -> None:
        self._preload = preload
        self._environment = environment
        self._begun = early.claim()
        self._control: _socket.socket | None = None  # ours; closed when the zygote ends or we do
        self._pid = 0
        # Workers it has not been asked for yet; with copies of their descriptors, closed then.
        self._unsent: deque[tuple[int, list[int]]] = deque()
        self._heard = b""  # the beginning of a message
        self._last = 0  # the worker that was asked for last
        self._mentioned: set[bytes] = set()  # what it was told to import
        self._news: list[News] = []

    def start(self, worker: int, fds: Fds) -> None:
        if self._control is None:
            self._take_zygote()
        if self._control is None:  # it died at once
            self._news.append(Exited(worker, None))
            return
        self._last = max(self._last, worker)
        self._mention(b"C", "cloudpickle" in sys.modules)
        if self._unsent or not self._request(worker, fds):
            copies: list[int] = []
            self._unsent.append((worker, copies))
            try:
                copies.extend(os.dup(fd) for fd in fds)
            except OSError:
                self._unsent.pop()
                for fd in copies:
                    os.close(fd)
                raise
        self._mention(b"N", self.nests)  # after the first, which is waited for

    def _mention(self, what: bytes, is_so: bool) -> None:
        """What workers will need, for the zygote to have it before them."""
        if not is_so or what in self._mentioned or self._control is None:
            return
        try:
            self._control.send(what + bytes(8))
            self._mentioned.add(what)
        except OSError:
            return  # it has much to do, or is dead: next time

    def _request(self, worker: int, fds: Fds | list[int]) -> bool:
        """Ask for a worker; False if the zygote is too far behind to be asked for more."""
        assert self._control is not None
        message = b"F" + worker.to_bytes(8, "little")
        passed = b"".join([fd.to_bytes(4, sys.byteorder) for fd in fds])
        try:
            # So short a message goes as a whole or not at all.
            self._control.sendmsg([message], [(_SOL_SOCKET, _SCM_RIGHTS, passed)])
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno in SCARCE:
                self._news.append(Exited(worker, NEVER_MADE - exc.errno))
            else:
                self._lose()
                self._news.append(Exited(worker, None))
        return True

    def _take_zygote(self) -> None:
        begun, self._begun = self._begun or early.start(), None
        self._pid, self._control = begun
        self._mentioned.clear()
        self._watch(self._control.fileno())
        try:
            if self._preload:
                path = [str(entry) for entry in sys.path]
                blob = marshal.dumps((path, list(self._preload), dict(self._environment)))
                self._control.sendall(b"L" + len(blob).to_bytes(8, "little") + blob)
            self._control.setblocking(False)
        except OSError:
            self._lose()

    def fds(self) -> list[int]:
        if self._begun is not None:
            return [self._begun[1].detach()]  # else it would once more close one of that number
        copies = [fd for _, fds in self._unsent for fd in fds]
        return copies if self._control is None else [self._control.detach(), *copies]

    def news(self) -> list[News]:
        while self._control is not None:
            try:
                data = self._control.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if data:
                self._heard += data
                self._note()
            else:
                self._lose()
        while self._unsent and self._control is not None and self._request(*self._unsent[0]):
            self._drop_unsent()
        news, self._news = self._news, []
        return news

    def _note(self) -> None:
        """Take in what has been heard completely; see `zygote` for what it looks like."""
        while len(self._heard) >= 17:
            code, number = self._heard[:1], int.from_bytes(self._heard[1:9], "little")
            value = int.from_bytes(self._heard[9:17], "little", signed=True)
            end = 17 + (number if code == b"P" else 0)
            if len(self._heard) < end:
                return
            rest, self._heard = self._heard[17:end], self._heard[end:]
            if code == b"P":
                self._news.append(Trouble(rest.decode(errors="replace")))
            elif code == b"S":
                self._news.append(Started(number, value))
            else:
                self._news.append(Exited(number, None if value == UNKNOWN else value))

    def gives_up_stopped(self) -> bool:
        if self._control is None or not is_stopped(self._pid):
            return False
        self.give_up()
        return True

    def give_up(self) -> None:
        """A zygote that is stopped tells nothing; one that is dead is `Lost`."""
        try:
            if self._control is not None:
                os.kill(self._pid, _SIGKILL)
        except ProcessLookupError:
            return  # it died just now, and a SIGCHLD handler of the program has reaped it

    def _lose(self) -> None:
        if self._control is not None:
            self.close()
            self._news.append(Lost(self._last))

    def close(self) -> None:
        if self._begun is not None:
            early.end(*self._begun)
            self._begun = None
        if self._control is not None:
            self._unwatch(self._control.fileno())
            self.gives_up_stopped()  # it would not hear that this is the end
            control, self._control = self._control, None
            self._heard = b""
            while self._unsent:
                self._drop_unsent()
            early.end(self._pid, control)

    def _drop_unsent(self) -> None:
        for fd in self._unsent.popleft()[1]:
            os.close(fd)


# -- spawn ---------------------------------------------------------------------------------------


class ChildLauncher(Launcher):
    """Workers that are children of this process."""

    tells = "pidfd" in HERE

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}  # worker -> pid
        self._pidfds: dict[int, int] = {}  # worker -> pidfd, ours; closed when it is gone
        self._news: list[News] = []

    @abstractmethod
    def _launch(self, worker: int, fds: Fds) -> int:
        """Make the process and return its pid."""

    def start(self, worker: int, fds: Fds) -> None:
        pid = self._pids[worker] = self._launch(worker, fds)
        if (pidfd := open_pidfd(pid)) is not None:
            self._pidfds[worker] = pidfd
            self._watch(pidfd)
        self._news.append(Started(worker, pid))

    def fds(self) -> list[int]:
        return list(self._pidfds.values())

    def news(self) -> list[News]:
        for worker, pid in list(self._pids.items()):
            status = gone(pid)
            if status is not None:
                self._drop(worker)
                self._news.append(Exited(worker, None if status == UNKNOWN else status))
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
    def _launch(self, worker: int, fds: Fds) -> int:
        call = "import os\nfrom unirun.backends.process.system import lead_group\n"
        call += "if os.getpgrp() != os.getpid(): lead_group()\n"
        call += f"from unirun.backends.process.worker import main; main(*range(3, {3 + len(fds)}))"
        return spawn_python(call, list(fds))


class ForkLauncher(ChildLauncher):
    works_at_exit = sys.version_info < (3, 12)  # "can't fork at interpreter shutdown"
    local_setup = True

    def __init__(self, body: Callable[[int, Fds], None]) -> None:
        super().__init__()
        from . import worker  # noqa: F401  # while nothing else is imported: not in a forked child

        self._body = body

    def _launch(self, worker: int, fds: Fds) -> int:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # else the child would write the same once more
        with warnings.catch_warnings():
            # Python 3.12+ warns of forking under threads; whoever asks for "fork" has been told.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                lead_group()
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
