"""What workers run in the tests of this folder. Light, so that a new worker has it at once."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from process.line import Line


def sleep(line: Line) -> None:
    line.send(os.getpid())
    time.sleep(1000)


def hold_the_gil(line: Line) -> None:
    line.send(os.getpid())
    while True:
        pass


def loop_in_c(line: Line) -> None:
    line.send(os.getpid())
    sum(range(10**15))


def ignore_sigterm(line: Line) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line.send(os.getpid())
    time.sleep(1000)


def clean_up_on_sigterm(line: Line, path: str) -> None:
    def clean_up(*_: object) -> None:
        Path(path).write_text("clean")
        sys.exit()

    signal.signal(signal.SIGTERM, clean_up)
    line.send(os.getpid())
    time.sleep(1000)


def answer_to_sigterm(line: Line) -> str:
    """Ends as if nothing had happened, after it was told to die."""

    def give_up(*_: object) -> None:
        raise InterruptedError

    signal.signal(signal.SIGTERM, give_up)
    line.send(os.getpid())
    with contextlib.suppress(InterruptedError):
        time.sleep(1000)
    return "as if nothing had happened"


def start_children(line: Line) -> None:
    children = [
        subprocess.Popen(["sleep", "1000"]),
        subprocess.Popen(["sleep", "1000"], start_new_session=True),
        subprocess.Popen([sys.executable, "-c", GRANDPARENT, line.path], start_new_session=True),
    ]
    line.send(" ".join(str(child.pid) for child in children))
    time.sleep(1000)


GRANDPARENT = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(fd, str(child.pid).encode().ljust(64))
time.sleep(1000)
"""


def double(x: int) -> int:
    return 2 * x


def log_start(path: str, number: int, rounds: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%d\n" % number)
    os.close(fd)
    for _ in range(rounds):
        pass
    return number


# -- dying -------------------------------------------------------------------------------------


def by_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def by_segfault() -> None:
    ctypes = __import__("ctypes")
    ctypes.string_at(0)


def by_exit_0() -> None:
    os._exit(0)


def by_exit_3() -> None:
    os._exit(3)


def by_abort() -> None:
    os.abort()


def raise_exit(status: object) -> None:
    sys.exit(status)  # type: ignore[arg-type]


def pid() -> int:
    return os.getpid()


def wait_for(line: Line, ready: Line) -> int:
    """Says that it runs, and returns its pid when it is told to."""
    ready.send(os.getpid())
    line.wait()
    return os.getpid()


def die_when_told(line: Line, ready: Line) -> None:
    ready.send(os.getpid())
    line.wait()
    by_sigkill()


class DiesUnpickled:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> object:
        return by_exit_3, ()


class DiesPickled:
    """Ends the process that pickles it."""

    def __reduce__(self) -> object:
        os._exit(4)


def return_what_dies() -> DiesPickled:
    return DiesPickled()


def die_half_way() -> bytes:
    """Dies while its result of 100 MB is on its way."""
    threading = __import__("threading")
    threading.Thread(target=_die_once_written, args=(10_000_000,), daemon=True).start()
    return bytes(100_000_000)


def _die_once_written(count: int) -> None:
    while True:
        words = Path("/proc/self/io").read_text().split()
        if int(words[words.index("wchar:") + 1]) > count:
            by_sigkill()


def note_and_die(path: str) -> None:
    note(path, "attempt")
    os._exit(5)


def note(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def note_and_raise(path: str) -> None:
    note(path, "attempt")
    raise LookupError("no licence found")


class Slow:
    """Takes as long to unpickle, in the pool's loop, as a line stays silent."""

    def __init__(self, line: Line, ready: Line) -> None:
        self.line, self.ready = line, ready

    def __setstate__(self, state: dict[str, Line]) -> None:
        self.__dict__.update(state)
        self.ready.send()
        self.line.wait()


def make_slow(line: Line, ready: Line) -> Slow:
    slow = Slow.__new__(Slow)
    slow.line, slow.ready = line, ready
    return slow


def answer_and_die(line: Line, ready: Line) -> str:
    """Returns, and soon afterwards its worker dies all the same."""
    threading = __import__("threading")
    thread = threading.Thread(target=die_when_told, args=(line, ready), daemon=True)
    thread.start()
    return "answer"
