"""The process that makes workers: single-threaded, exec'd, ready to fork.

Being small and without threads, it forks in half a millisecond and without the dangers of forking
the user's process.  It is the parent of every worker, so it is the one who learns how each ended.

Over one stream socket, a head of fixed length each, and what its value says behind it:

    from the pool   F number, with descriptors attached: fork a worker · L length: modules to
                    import, and where they are · C: the pool has begun to use cloudpickle ·
                    N: its tasks wait for calls of their own, in workers lent to them ·
                    Q: the end that follows is an orderly one
    to the pool     S number pid: it runs · X number status: it is gone, and so is its process
                    group · P length: a preload failed, for this reason

The end of the socket is the end of the pool: every worker is killed, then the zygote exits.  Was
it not an orderly end, then the pool's process has died, and everything its tasks ever started
dies with it.

It adopts the orphans of its workers, where the system allows that; see `orphans`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in worker.py
import _socket
import gc
import marshal
import os
import sys
import time
from collections import deque
from errno import EMFILE

from . import meter, orphans, relays, remains, worker  # noqa: F401  # the two are for its workers
from .ends import FAILED_START, NEVER_MADE, STOPPED, gone, kill_group
from .system import lead_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_FDS = 8
"""As many descriptors can be passed to a worker."""
PATIENCE = 5.0
"""Seconds to go on trying where the system has no process to give."""
QUIET = 0.01
"""Seconds without news after which there is time for what is needed later."""
LAST_STAND = 1.0
"""Seconds to hunt for those who fork faster than they are killed."""


def main(fd: int) -> None:
    """Serve the socket `fd` until it ends; never returns."""
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    if os.getpgrp() != os.getpid():
        lead_group()  # where posix_spawn could not do it
    remains.prepare()
    Zygote(_socket.socket(fileno=fd)).serve()


class Zygote:
    def __init__(self, control: _socket.socket) -> None:
        self._owner = os.getppid()
        self._control = control
        self._workers: dict[int, int] = {}  # pid -> number
        # Workers that were not forked yet: number, and descriptors, which are ours until then.
        self._unborn: deque[tuple[int, list[int]]] = deque()
        self._scarce_since: float | None = None  # when forking began to fail, if it does
        self._adopts = False  # whether orphans of the workers become children of ours
        self._settled = False
        self._wake, self._woken = os.pipe()  # SIGCHLD writes a byte; ours until exit
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        _signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, _ignore)

    def serve(self) -> None:
        gc.freeze()  # what is here now is never garbage: keep its pages shared with the workers
        import select

        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = poll.poll(self._patience())
            for fd, _ in ready:
                if fd == self._wake:
                    self._reap()
                else:
                    self._obey()
            if self._unborn:
                self._give_birth()
            elif not ready:
                self._settle()

    def _patience(self) -> float | None:
        """Milliseconds until there is something to do by itself."""
        if self._unborn and self._scarce_since is not None:
            return min(max(time.monotonic() - self._scarce_since, 0.01), 0.5) * 1000
        return QUIET * 1000 if self._workers and not self._settled else None

    # -- orders -----------------------------------------------------------------------------------

    def _obey(self) -> None:
        try:
            data, ancillary, flags, _ = self._control.recvmsg(9, _socket.CMSG_SPACE(4 * MAX_FDS))
            if not data:
                self._end(orderly=False)
            data += self._receive(9 - len(data))
            code, value = data[:1], int.from_bytes(data[1:], "little")
            if code == b"L":
                self._preload(*marshal.loads(self._receive(value)))
        except (OSError, EOFError):
            self._end(orderly=False)
        if code == b"Q":
            self._end(orderly=True)
        elif code == b"C":
            _import_cloudpickle()
        elif code == b"N":
            _import_what_submits()
        elif code == b"F" and flags & _socket.MSG_CTRUNC:
            self._refuse(value, _descriptors(ancillary), EMFILE)
        elif code == b"F":
            self._unborn.append((value, _descriptors(ancillary)))

    def _receive(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = self._control.recv(count - len(parts))
            if not part:
                raise EOFError
            parts += part
        return parts

    def _tell(self, code: bytes, number: int, value: int = 0, rest: bytes = b"") -> None:
        head = number.to_bytes(8, "little") + value.to_bytes(8, "little", signed=True)
        try:
            self._control.sendall(code + head + rest)
        except OSError:
            self._end(orderly=False)  # nobody is left to be told

    def _preload(self, path: list[str], names: list[str], environment: dict[str, str]) -> None:
        sys.path[:] = path
        os.environ.update(environment)
        for name in names:
            try:
                __import__(name)
            except BaseException as exc:  # user code; the pool is told  # noqa: BLE001
                text = f"cannot preload {name!r}: {type(exc).__name__}: {exc}"
                reason = text.encode(errors="replace")[:60000]
                self._tell(b"P", len(reason), rest=reason)
        gc.freeze()

    # -- births -----------------------------------------------------------------------------------

    def _give_birth(self) -> None:
        while self._unborn:
            number, fds = self._unborn[0]
            try:
                pid = os.fork()
            except OSError as exc:  # no process to be had, or no memory for one: perhaps soon
                if self._wait_for_better():
                    return
                self._unborn.popleft()
                self._refuse(number, fds, exc.errno or 0)
                continue
            self._unborn.popleft()
            if pid == 0:
                self._become_worker(number, fds)
            _close(fds)
            self._scarce_since = None
            self._workers[pid] = number
            self._tell(b"S", number, pid)

    def _wait_for_better(self) -> bool:
        now = time.monotonic()
        if self._scarce_since is None:
            self._scarce_since = now
        return now - self._scarce_since < PATIENCE

    def _refuse(self, number: int, fds: list[int], error: int) -> None:
        _close(fds)
        self._tell(b"X", number, NEVER_MADE - error)

    def _become_worker(self, number: int, fds: list[int]) -> None:
        try:
            lead_group()  # killed as one, deaf to the terminal's Ctrl-C
            _signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            self._control.close()
            others = [fd for _, theirs in self._unborn for fd in theirs]
            _close([self._wake, self._woken, *others])
            orphans.mark(number)
            worker.main(*fds)
        finally:
            os._exit(1)

    def _settle(self) -> None:
        """Prepare for later, once the first workers are off and nothing is asked for."""
        if self._settled or not self._workers:
            return
        self._settled = True
        self._adopts = orphans.adopt()
        gc.freeze()

    # -- deaths -----------------------------------------------------------------------------------

    def _reap(self) -> None:
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            return
        for pid, number in list(self._workers.items()):
            status = gone(pid)
            if status is not None:
                del self._workers[pid]
                if self._adopts and status not in (STOPPED, FAILED_START):
                    self._kill_orphans_of(number)
                self._tell(b"X", number, status)
        if self._adopts:
            self._reap_orphans()

    def _orphans(self) -> list[int]:
        from .limits import children

        return [pid for pid in children(os.getpid()) if pid not in self._workers]

    def _kill_orphans_of(self, number: int) -> None:
        from .limits import Doomed

        for pid in self._orphans():
            if orphans.is_of(pid, number):
                Doomed(pid).kill()

    def _reap_orphans(self) -> None:
        for pid in self._orphans():
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # a zombie's number is reused only after it was reaped: it was, above

    # -- the end ----------------------------------------------------------------------------------

    def _end(self, *, orderly: bool) -> None:
        if not orderly:
            self._take_all_along()
        for pid in self._workers:
            kill_group(pid)
        if not orderly:
            _tidy_up_after(self._owner)
        os._exit(0)

    def _take_all_along(self) -> None:
        from .limits import Doomed, descendants

        until = time.monotonic() + LAST_STAND
        while (left := descendants(os.getpid())) and time.monotonic() < until:
            for pid in left:
                Doomed(pid).kill()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    continue
            except ChildProcessError:
                return
            time.sleep(0.002)


def _tidy_up_after(owner: int) -> None:
    """The pool's process could not remove the sockets of what it shared with its workers."""
    from unirun._leftovers import remove_those_of, temporary_directory

    where = temporary_directory()
    if where is not None:
        remove_those_of(owner, where)


def _import_cloudpickle() -> None:
    """30 ms that each worker would need by itself, before its first call of a lambda."""
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return  # it is not where the pool's process has it: a worker will say so, if it needs it
    gc.freeze()


def _import_what_submits() -> None:
    """60 ms that each worker would need by itself, before the first call that a task submits."""
    try:
        from unirun import _nesting

        from . import home, nested  # noqa: F401

        _nesting.expect_submits()
    except BaseException:  # something of the user's has a name of ours: as above  # noqa: BLE001
        return
    gc.freeze()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _descriptors(ancillary: Any) -> list[int]:
    fds = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += [
                int.from_bytes(data[i : i + 4], sys.byteorder) for i in range(0, len(data) - 3, 4)
            ]
    return fds


def _ignore(signum: int, frame: Any) -> None:
    """SIGCHLD only has to wake the poll."""
