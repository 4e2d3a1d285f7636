"""The process that makes workers: single-threaded, exec'd, ready to fork.

Being small and without threads, it forks in a millisecond and without the dangers of forking the
user's process.  It is the parent of every worker, so it is the one who learns how each ended.

Over one SOCK_SEQPACKET socket, one message each:

    from the pool   b"F" + number, with (tasks, results, lifeline) attached: fork a worker
    to the pool     b"S" + number + pid: it runs · b"X" + number + status: it is gone, and so is
                    its process group · b"P" + text: a preload failed

The end of the socket is the end of the pool: every worker is killed, then the zygote exits.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in worker.py
import _socket
import gc
import os
import sys

from . import worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FDS = 3  # tasks, results, lifeline

NEVER_MADE = -1000
"""At and below this, a status says that a worker was not made: minus that, the errno."""


def main(fd: int, preload: list[str]) -> None:
    """Serve the socket `fd` until it ends; never returns."""
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    Zygote(_socket.socket(fileno=fd)).serve(preload)


class Zygote:
    def __init__(self, control: _socket.socket) -> None:
        self._control = control
        self._workers: dict[int, int] = {}  # pid -> number
        self._wake, self._woken = os.pipe()  # SIGCHLD writes a byte; ours until exit
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        _signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, _ignore)

    def serve(self, preload: list[str]) -> None:
        self._preload(preload)
        gc.freeze()  # what is here now is never garbage: keep its pages shared with the workers
        import select

        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    self._reap()
                elif not self._obey():
                    self._end()

    def _preload(self, names: list[str]) -> None:
        for name in names:
            try:
                __import__(name)
            except BaseException as exc:  # user code; the pool is told  # noqa: BLE001
                text = f"cannot preload {name!r}: {type(exc).__name__}: {exc}"
                self._tell(b"P" + text.encode(errors="replace")[:60000])

    def _tell(self, message: bytes) -> None:
        try:
            self._control.send(message)
        except OSError:
            self._end()  # nobody is left to be told

    def _obey(self) -> bool:
        try:
            data, ancillary, _, _ = self._control.recvmsg(64, _socket.CMSG_SPACE(4 * FDS))
        except OSError:
            return False
        if not data:
            return False
        fds = _descriptors(ancillary)
        number = int.from_bytes(data[1:9], "little")
        try:
            pid = os.fork()
        except OSError as exc:
            status = NEVER_MADE - (exc.errno or 0)
            self._tell(b"X" + data[1:9] + status.to_bytes(8, "little", signed=True))
            pid = -1
        if pid == 0:
            self._become_worker(fds)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._workers[pid] = number
            self._tell(b"S" + data[1:9] + pid.to_bytes(8, "little"))
        return True

    def _become_worker(self, fds: list[int]) -> None:
        try:
            os.setsid()  # a group of its own: killed as one, deaf to the terminal's Ctrl-C
            _signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            self._control.close()
            os.close(self._wake)
            os.close(self._woken)
            worker.main(*fds)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            return
        for pid in list(self._workers):
            status = gone(pid)
            if status is not None:
                number = self._workers.pop(pid)
                self._tell(
                    b"X" + number.to_bytes(8, "little") + status.to_bytes(8, "little", signed=True)
                )

    def _end(self) -> None:
        for pid in self._workers:
            kill_group(pid)
        os._exit(0)


def gone(pid: int) -> int | None:
    """The exit status of our child `pid` if it has ended (negative: a signal), else None.

    Its process group is killed before the child is reaped, while its number cannot be taken by
    anybody else; except after an orderly end, which leaves what the tasks started in peace.
    """
    if hasattr(os, "waitid"):
        try:
            info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return -999  # somebody else reaped it: how it ended will never be known
        if info is None:
            return None
        exited = info.si_code == os.CLD_EXITED
        if not (exited and info.si_status in (worker.STOPPED, worker.FAILED_START)):
            kill_group(pid)
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return -999
    return os.waitstatus_to_exitcode(status) if reaped else None


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, _signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nobody is left in it


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
