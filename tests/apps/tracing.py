"""Stops a process at each of its system calls, by ptrace: the moments at which it may be killed.

    follow a thread until it starts a process ──> that process from its first instruction on
    run it from stop to stop (before and after each system call, in all of its threads)
    at the stop that was asked for: SIGKILL, or SIGSTOP and leave it alone

Only for Linux, and only where the system lets us: `refused` says why not.  All of it belongs to the
one thread that called `Tracer`, as ptrace wants it.  The tracer should be the ancestor of what it
traces, as some systems ask for that.
"""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

CONT, DETACH, SYSCALL = 7, 17, 24
SETOPTIONS, GETEVENTMSG, SEIZE, SYSCALL_INFO = 0x4200, 0x4201, 0x4206, 0x420E
SYSGOOD, TRACE_FORK, TRACE_VFORK, TRACE_CLONE, TRACE_EXEC, EXIT_KILL = 1, 2, 4, 8, 16, 1 << 20
FORK, VFORK, CLONE, EXEC, STOP = 1, 2, 3, 4, 128
ALL = 0x40000000  # __WALL: threads and processes alike
AT_SYSCALL = signal.SIGTRAP | 0x80

_libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> int:
    word = ctypes.c_void_p
    argument = data if isinstance(data, ctypes.Array) else word(data)  # type: ignore[arg-type]
    result = int(_libc.ptrace(ctypes.c_long(request), ctypes.c_int(pid), word(address), argument))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x}, {pid})")
    return result


def refused() -> str:
    """Why processes cannot be traced here; empty if they can."""
    if sys.platform != "linux":
        return "ptrace as it is used here is of Linux only"
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        ptrace(SEIZE, pid, 0, SYSGOOD)
    except OSError as exc:
        return f"the system refuses ptrace: {exc}"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, ALL)
    return ""


class Ended(Exception):
    """The program whose process is to be traced has ended itself."""


class Tracer:
    """Follows `program`, one of our children, to one of its processes, and that to one moment."""

    def __init__(self, program: int) -> None:
        self._program = program
        self.victim = 0
        self.stops = 0  # of the victim so far
        self.moment = ""  # what the victim was about, once that moment has come
        self._threads: set[int] = set()  # all that we trace
        self._counts = True  # else its stops are not counted yet
        self._strays: dict[int, int] = {}  # stopped at birth before we heard of them

    def follow(self, leader: int) -> None:
        """Be told of the processes that this thread will start."""
        ptrace(SEIZE, leader, 0, TRACE_FORK | TRACE_VFORK)
        self._leader = leader
        self._threads.add(leader)

    def until(self, moment: int, how: signal.Signals, nth: int = 1) -> None:
        """Let the n-th process that is started run to its stop number `moment`, and signal it.

        Returns when nothing is traced any more: it is stopped, or dead, or has ended before.
        """
        self._at, self._how, self._births = moment, how, nth
        while self._threads:
            pid, status = os.waitpid(-1, ALL)
            if not os.WIFSTOPPED(status):
                self._threads.discard(pid)
                if pid == self._program:
                    raise Ended(f"the program ended by itself, status {status}")
                continue
            if pid not in self._threads:
                self._strays[pid] = status  # at birth; whose child it is will be told
                continue
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile: its end comes next
                self._stopped(pid, os.WSTOPSIG(status), status >> 16)

    def _stopped(self, pid: int, number: int, event: int) -> None:
        if pid == self._leader and self.victim != pid:
            self._leader_stopped(pid, number, event)
        elif self.moment and self._how == signal.SIGSTOP:
            self._let_stop(pid, number, event)
        elif event == CLONE:
            self._adopt(_message(pid), SYSCALL)
            ptrace(SYSCALL, pid)
        elif event == EXEC:
            self._counts = True
            ptrace(SYSCALL, pid)
        elif number == AT_SYSCALL:
            self._at_system_call(pid)
        else:
            ptrace(SYSCALL, pid, 0, 0 if event else number)

    def _leader_stopped(self, pid: int, number: int, event: int) -> None:
        if event not in (FORK, VFORK):
            ptrace(CONT, pid, 0, 0 if event else number)
            return
        child = _message(pid)
        self._births -= 1
        if self._births:
            self._adopt(child, DETACH)
            ptrace(CONT, pid)
            return
        self.victim = child
        # Until it calls exec, the thread that made it stands still with it: that is how vfork is.
        self._counts = event == FORK or self._how != signal.SIGSTOP
        ptrace(DETACH, pid)
        self._threads.discard(pid)
        self._adopt(child, SYSCALL)

    def _adopt(self, child: int, request: int) -> None:
        """It stops at birth: have it go on from there."""
        if self._strays.pop(child, None) is None:
            os.waitpid(child, ALL)
        if request == SYSCALL:
            self._threads.add(child)
            ptrace(SETOPTIONS, child, 0, SYSGOOD | TRACE_CLONE | TRACE_EXEC | EXIT_KILL)
        ptrace(request, child)

    def _at_system_call(self, pid: int) -> None:
        self.stops += self._counts
        if self._counts and self.stops >= self._at - 1 and not self.moment:
            about = _describe(pid)
            if self.stops == self._at:
                self.moment = about
                os.kill(self.victim, self._how)
        ptrace(SYSCALL, pid)

    def _let_stop(self, pid: int, number: int, event: int) -> None:
        if event == STOP:
            ptrace(DETACH, pid)  # it stays stopped
            self._threads.discard(pid)
        elif event == CLONE:
            self._adopt(_message(pid), SYSCALL)
            ptrace(CONT, pid)
        else:
            ptrace(CONT, pid, 0, 0 if event or number == AT_SYSCALL else number)


def _message(pid: int) -> int:
    buffer = (ctypes.c_ulong * 1)()
    ptrace(GETEVENTMSG, pid, 0, buffer)
    return int(buffer[0])


def _describe(pid: int) -> str:
    """Which system call, and whether before or after it."""
    buffer = (ctypes.c_ubyte * 88)()
    try:
        ptrace(SYSCALL_INFO, pid, len(buffer), buffer)
    except OSError:
        return "at a system call"  # an old kernel does not tell
    if buffer[0] == 1:
        _entered[pid] = _name(int.from_bytes(bytes(buffer[24:32]), "little"))
        return f"before {_entered[pid]}"
    return f"after {_entered.get(pid, 'a system call')}"


_entered: dict[int, str] = {}
_names: dict[int, str] = {}


def _name(number: int) -> str:
    if not _names:
        _names[-1] = ""
        for header in Path("/usr/include").glob("*-linux-gnu/asm/unistd_64.h"):
            for line in header.read_text().splitlines():
                words = line.split()
                if len(words) == 3 and words[1].startswith("__NR_"):
                    _names[int(words[2])] = words[1].removeprefix("__NR_")
    return _names.get(number, f"system call {number}")
