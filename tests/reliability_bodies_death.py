"""What workers run in tests/reliability/test_worker_dies.py. Light: every worker imports it."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from process.line import Line


def segfault() -> None:
    ctypes.string_at(0)


def exit_at_once() -> None:
    os._exit(3)


def exit_with_0() -> None:
    os._exit(0)


def exit_in_c() -> None:
    """By the C library's `exit`, which runs what is registered there."""
    ctypes.CDLL(None).exit(7)


def leave() -> None:
    sys.exit(4)


def fail() -> None:
    raise LookupError("not today")


class Unpickled:
    """Does something when it is unpickled, wherever that is."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.do = do

    def __reduce__(self) -> Any:
        return self.do, ()


class Pickled:
    """Does something when it is pickled."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.do = do

    def __reduce__(self) -> Any:
        self.do()
        return int, ()


def make_pickled(do: Callable[[], None]) -> Pickled:
    return Pickled(do)


def raise_at_home(home: int, kind: type[BaseException]) -> object:
    """What a result becomes: an exception where the program is, nothing in a worker."""
    if os.getpid() == home:
        raise kind("at home")
    return None


class RaisesAtHome:
    def __init__(self, home: int, kind: type[BaseException]) -> None:
        self.how = home, kind

    def __reduce__(self) -> Any:
        return raise_at_home, self.how


def make_raising(home: int, kind: type[BaseException]) -> RaisesAtHome:
    return RaisesAtHome(home, kind)


class DiesLater:
    """Ends the process in which it is dropped, but for the one that made it."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.home:
            os._exit(6)


def take(it: object) -> int:
    return os.getpid()


def kill_another(ready: Line, line: Line) -> str:
    """Kill the worker whose pid comes, and go on."""
    ready.send(os.getpid())
    os.kill(int(line.wait()), signal.SIGKILL)
    return "killed it"


def say_and_sleep(ready: Line) -> None:
    ready.send(os.getpid())
    time.sleep(1000)


def send_much(ready: Line, size: int) -> bytes:
    ready.send(os.getpid())
    return bytes(size)


def length(data: bytes) -> int:
    return len(data)


def stop_now(ready: Line) -> None:
    ready.send(os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_after_the_answer(ready: Line, seconds: float) -> int:
    """Its worker stands still a moment later, when it has nothing to do."""

    def stop() -> None:
        time.sleep(seconds)
        ready.send(os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)

    threading.Thread(target=stop, daemon=True).start()
    return os.getpid()


def stop_once(path: str) -> None:
    """An initializer that stands still in the first worker, and in no other."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)


def note(path: str, number: int) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    return number


def die_unless_tried(path: str, times: int) -> int:
    """Die so many times, then return the number of the attempt."""
    note(path, 0)
    with open(path) as file:  # noqa: PTH123  # pathlib would be imported in each worker
        attempt = len(file.read().splitlines())
    if attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt


def die_by_sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
