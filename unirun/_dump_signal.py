"""Stacks of a process that is not asked nicely: by signals, and handlers that write.

    in the process   `prepare`, `arm`: handlers that write into a memory file
    from outside     `ask`: send a signal, read that file by /proc/PID/fd

1. faulthandler's handler, in C, works while C code holds the GIL and while a thread waits.  But it
   reads frames as they are: those of a thread that runs Python may be freed that moment, and the
   process would die of it.  So it is asked for threads that sleep, each of which writes its own
   stack, and for a main thread of which it is known that it is inside C code.
2. Where something runs, a handler in Python is asked first: it writes all stacks, safely.  If it
   does not come while the main thread uses its processor, that thread is inside C code.
3. The signals are real-time ones that nobody is known to use.  System calls that they interrupt are
   restarted, and their default, to end the process, is never risked: they are sent only where the
   process catches them.

Light by rule: every worker process imports this file.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

__all__ = ["NAME", "Unavailable", "arm", "ask", "ask_all", "close", "prepare", "signal_number"]

NAME = "unirun-stacks"
PATIENCE = 0.8
"""Seconds for a process to write its stacks, where the caller says nothing else."""
RUNNING_PATIENCE = 0.3
"""Seconds of them for the handler in Python."""
IN_C = 0.05
"""Seconds of a processor that a thread which runs Python would not use without the handler."""
QUIET = 0.01
"""Seconds without another byte after which a thread has written all."""
SILENCE = 0.03
"""Seconds after which a thread that has written nothing runs no Python, or does nothing else."""
_HIGH = 201
_LARGEST = 1 << 20
_DEEP = 100
_END = "\0"

_file = -1  # where the handlers write: nowhere, then into the memory of `arm`


class Unavailable(Exception):
    """There are no stacks; the text says why."""


def signal_number() -> int | None:
    """SIGRTMAX - 3, for the handler in C; None where there are no such signals."""
    import _signal  # type: ignore[import-not-found]  # `signal` would cost an enum per worker

    highest = getattr(_signal, "SIGRTMAX", None)
    return None if highest is None else int(highest) - 3


# -- in the process ------------------------------------------------------------------------------


def prepare() -> None:
    """Install the handler in C, which writes nowhere yet; a zygote does it for all it forks."""
    global _file
    number = signal_number()
    if _file >= 0 or number is None or not hasattr(os, "memfd_create"):
        return
    import faulthandler

    try:
        _file = _reserve()
    except OSError:
        return  # out of descriptors: there will be no stacks
    faulthandler.register(number, _file, all_threads=False)  # rule 1


def arm(*, in_python: bool = False) -> bool:
    """Write into memory of this very process from now on; False where that cannot be.

    `in_python`: with the other handler, too; in the main thread of a process that is all ours.
    """
    prepare()
    if _file < 0:
        return False
    import fcntl

    try:
        fd = os.memfd_create(NAME, os.MFD_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # who has read it may cut it
        os.dup2(fd, _file, inheritable=False)
    except OSError:
        return False  # a limit on descriptors that is lower by now
    finally:
        os.close(fd)
    number = signal_number()
    if in_python and number is not None:
        import _signal

        _signal.signal(number - 1, _tell)
        _signal.siginterrupt(number - 1, False)
    return True


def close() -> None:
    """Undo it all, but for the handler in Python."""
    global _file
    number = signal_number()
    if _file >= 0 and number is not None:
        import faulthandler

        faulthandler.unregister(number)
        os.close(_file)
        _file = -1


def _tell(_: int, interrupted: FrameType | None) -> None:
    """Rule 2: the stacks of all threads, as faulthandler writes them; in the main thread."""
    import _thread

    me, lines = _thread.get_ident(), []
    frames: dict[int, FrameType | None] = {me: interrupted, **sys._current_frames()}
    frames[me] = interrupted  # and not this function
    for ident, top in frames.items():
        who = "main thread" if ident == me else f"thread {ident:#x}"
        lines.append(f"{who}, innermost call first:")
        frame, depth = top, 0
        while frame is not None and depth < _DEEP:
            code = frame.f_code
            lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
            frame, depth = frame.f_back, depth + 1
        lines.append("")
    try:
        os.write(_file, ("\n".join(lines) + _END).encode("utf-8", "backslashreplace"))
    except OSError:
        return  # a task has closed it


def _reserve() -> int:
    """A descriptor with a high number, which a task that closes what it finds does not meet."""
    import fcntl

    null = os.open(os.devnull, os.O_RDWR)
    try:
        try:
            return fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        except OSError:
            return fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 3)  # so high they may not be here
    finally:
        os.close(null)


# -- from outside --------------------------------------------------------------------------------


def ask(pid: int, patience: float = PATIENCE) -> str:
    """The stacks of that process, that of its main thread first; raises Unavailable."""
    asked = _Asked(pid)
    try:
        _wait_for([asked], patience)
        return asked.answer(patience)
    finally:
        asked.close()


def ask_all(
    pids: Iterable[int], patience: float = PATIENCE, *, deaf: bool = False
) -> dict[int, str]:
    """The stacks of each, or why there are none; no longer for many than for one.

    `deaf`: it is known that the first of them runs no Python now, since it does not answer.
    """
    answers, asked = {}, []
    for at, pid in enumerate(pids):
        try:
            asked.append(_Asked(pid, deaf=deaf and not at))
        except Unavailable as exc:
            answers[pid] = f"no stacks: {exc}"
    _wait_for(asked, patience)
    for each in asked:
        try:
            answers[each.pid] = each.answer(patience)
        except Unavailable as exc:
            answers[each.pid] = f"no stacks: {exc}"
        finally:
            each.close()
    return answers


def _wait_for(asked: list[_Asked], patience: float) -> None:
    until = time.monotonic() + patience
    left = list(asked)
    while left and (now := time.monotonic()) < until:
        left = [each for each in left if not each.is_done(now)]
        if left:
            time.sleep(0.001)


class _Asked:
    """A process that was sent signals.  Owns a descriptor of the memory it writes into."""

    def __init__(self, pid: int, *, deaf: bool = False) -> None:
        number = signal_number()
        if number is None:
            raise Unavailable("this system has no real-time signals")
        self.pid = pid
        self._number = number
        self._inside_c = deaf
        self._parts: list[str] = []
        path = _memory_of(pid)
        has_python = _check_state(pid, number)
        self._threads = _threads_of(pid)
        runs = any(_state_of(pid, thread) == "R" for thread in self._threads)
        try:
            self._fd = os.open(path, os.O_RDWR)
        except OSError as exc:
            raise Unavailable(f"its memory cannot be opened ({exc.strerror})") from exc
        if os.fstat(self._fd).st_size > _LARGEST:
            os.ftruncate(self._fd, 0)
        self._used = _processor_time(pid)
        self._in_python = runs and has_python and not deaf
        self._thread = 0  # that was asked last
        self._begin(time.monotonic())
        if self._in_python:
            self._send(pid, number - 1)

    def close(self) -> None:
        os.close(self._fd)

    def _begin(self, now: float) -> None:
        self._before = self._size = os.fstat(self._fd).st_size
        self._sent, self._since = now, 0.0

    def _send(self, thread: int, number: int) -> None:
        send = _tgkill()
        try:
            if send is None:
                os.kill(self.pid, number)
            else:
                send(self.pid, thread, number)  # a thread may have ended, which is seen by silence
        except OSError:
            return  # likewise

    def is_done(self, now: float) -> bool:
        size = os.fstat(self._fd).st_size
        if size != self._size:
            self._size, self._since = size, now
        if self._in_python:
            return self._has_told(now)
        if self._thread:
            told = size > self._before
            patience = RUNNING_PATIENCE if self._thread == self.pid else SILENCE
            if (told and now - self._since < QUIET) or (not told and now - self._sent < patience):
                return False
            self._keep()
            self._thread = 0
        return not self._threads or self._ask_next(now)

    def _has_told(self, now: float) -> bool:
        text = self._text()
        if text.endswith(_END):
            self._parts = [part.strip() for part in text.rstrip(_END).split("\n\n")]
            return True
        if now - self._sent >= RUNNING_PATIENCE:
            self._in_python = False
            self._inside_c = _processor_time(self.pid) - self._used >= IN_C  # rule 2
            self._begin(now)
        return False

    def _ask_next(self, now: float) -> bool:
        """Ask the next thread that may be asked (rule 1); True if none is left."""
        thread = self._threads[0]
        safe = _state_of(self.pid, thread) != "R" or (self._inside_c and thread == self.pid)
        if not safe and now - self._sent < SILENCE:
            return False  # it may be about to sleep
        del self._threads[0]
        self._begin(now)
        if safe:
            self._thread = thread
            self._send(thread, self._number)
        else:
            self._parts.append(f"{self._name(thread)}: runs just now")
        return False

    def _keep(self) -> None:
        if text := self._text():
            title = f"{self._name(self._thread)}, innermost call first:"
            self._parts.append(f"{title}\n{text.partition(chr(10))[2]}".strip())
            self._before = self._size

    def _name(self, thread: int) -> str:
        return "main thread" if thread == self.pid else f"thread {thread}"

    def _text(self) -> str:
        count = self._size - self._before
        return os.pread(self._fd, count, self._before).decode("utf-8", "replace") if count else ""

    def answer(self, patience: float) -> str:
        if self._thread:
            self._keep()
        if not any("\n" in part for part in self._parts):
            raise Unavailable(_silence(self.pid, patience))
        return "\n\n".join(self._parts)


def _tgkill() -> Callable[[int, int, int], int] | None:
    """How to signal one thread of a process; None where the C library has no such function."""
    global _function
    if _function is None:
        import ctypes

        _function = (getattr(ctypes.CDLL(None), "tgkill", None),)
    return _function[0]


_function: tuple[Callable[[int, int, int], int] | None] | None = None


def _threads_of(pid: int) -> list[int]:
    """The main thread first; it alone where no other could be signalled."""
    if _tgkill() is None:
        return [pid]
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda each: each != pid)
    except OSError:
        return [pid]


def _state_of(pid: int, thread: int) -> str:
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"


def _processor_time(pid: int) -> float:
    """Seconds that the main thread has used."""
    try:
        with open(f"/proc/{pid}/task/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def _memory_of(pid: int) -> str:
    folder = f"/proc/{pid}/fd"
    try:
        names = sorted(os.listdir(folder), key=lambda name: abs(int(name) - _HIGH))
    except FileNotFoundError:
        raise Unavailable("it is gone, or there is no /proc") from None
    except PermissionError:
        raise Unavailable("it belongs to somebody else") from None
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}").startswith(f"/memfd:{NAME} "):
                return f"{folder}/{name}"
        except OSError:
            continue  # closed meanwhile
    raise Unavailable("it is not prepared to be asked, or has closed the descriptor for it")


def _check_state(pid: int, number: int) -> bool:
    """Refuse where the signal would end the process, or would find nobody.

    Returns whether the handler in Python is there, too.
    """
    facts = dict(_status_of(pid))
    state = facts.get("State", "?")
    bit = 1 << (number - 1)
    if state.startswith(("T", "t")):
        raise Unavailable("it is stopped (SIGSTOP, or a debugger); continue it with SIGCONT")
    if state.startswith(("Z", "X")):
        raise Unavailable("it is dead")
    if not int(facts.get("SigCgt", "0"), 16) & bit:
        raise Unavailable(f"its code has taken signal {number} and does not catch it any more")
    if int(facts.get("SigBlk", "0"), 16) & bit:
        raise Unavailable(f"its code has blocked signal {number}")
    return bool(int(facts.get("SigCgt", "0"), 16) & bit >> 1)


def _silence(pid: int, patience: float) -> str:
    state = dict(_status_of(pid)).get("State", "")
    if state.startswith("D"):
        return "it is inside a system call that cannot be interrupted"
    if state.startswith(("T", "t")):
        return "it is stopped (SIGSTOP, or a debugger); continue it with SIGCONT"
    return (
        f"it wrote nothing within {patience:g} s; its code may have taken signal {signal_number()}"
    )


def _status_of(pid: int) -> Iterator[tuple[str, str]]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        raise Unavailable("it is gone") from None
    for line in lines:
        name, _, value = line.partition(":")
        yield name, value.strip()
