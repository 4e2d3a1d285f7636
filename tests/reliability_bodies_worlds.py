"""What the tests of pickling, of bad worlds and of programs have run in workers."""

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any


def same(value: Any) -> Any:
    return value


def double(value: int) -> int:
    return 2 * value


def pid() -> int:
    return os.getpid()


# -- pickling -------------------------------------------------------------------------------------


class RaisesPickled:
    """Raises, or exits, when it is pickled."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise self.kind("on purpose")


class Demanding(Exception):
    """Cannot be rebuilt from its `args`."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class Strict(Exception):
    """Refuses to be made from what stands in its `args`: there are too many of it."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one, two, one + two)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    where: str


class Holding(Exception):
    """Holds what no pickle takes."""

    def __init__(self, what: Any) -> None:
        super().__init__("holds something", what)
        self.what = what


class Own(BaseException):
    pass


def demand() -> None:
    raise Demanding(7, reason="a reason")


def be_strict() -> None:
    raise Strict(1, 2)


def freeze() -> None:
    raise Frozen("in the ice")


def hold_a_lock() -> None:
    raise Holding(threading.Lock())


def hold_a_file() -> None:
    with Path(__file__).open("rb") as file:
        raise Holding(file)


def hold_a_frame() -> None:
    raise Holding(sys._getframe())


def hold_its_traceback() -> None:
    try:
        raise ValueError("first")
    except ValueError as exc:
        raise Holding(exc.__traceback__) from exc


def raise_this(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


def make(kind: type[BaseException], *args: Any) -> BaseException:
    return kind(*args)


def fail_below() -> None:
    try:
        {}["missing"]
    except KeyError as exc:
        raise ValueError("above") from exc


def last_of(array: Any) -> tuple[int, int]:
    return len(array), int(array[-1])


# -- the environment ------------------------------------------------------------------------------


def variable(name: str) -> str | None:
    return os.environ.get(name)


def cores() -> int:
    import unirun

    return unirun.cpu_count()


def multiply(size: int) -> float:
    """Through BLAS, whose threads do not survive a fork."""
    import numpy as np

    matrix = np.ones((size, size))
    return float((matrix @ matrix)[0, 0])


def start_all_kinds() -> list[Any]:
    """A process, a pool and a program that reads from stdin, all in one task."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    child = context.Process(target=int)
    child.start()
    child.join()
    with context.Pool(2) as pool:
        found: list[Any] = [child.exitcode, pool.map(double, [1, 2])]
    program = [sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=20, check=True)
    return [*found, done.stdout.strip()]


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


# -- stderr ---------------------------------------------------------------------------------------


def flood(seconds: float, how: str, flag: str = "") -> int:
    """Write to stderr as fast as can be; how many bytes that were."""
    until, count = time.monotonic() + seconds, 0
    data = b"x" * 65535 + b"\n"
    text = data.decode()
    if flag:
        Path(flag).touch()
    while time.monotonic() < until:
        if how == "descriptor":
            count += os.write(2, data)
        else:
            count += sys.stderr.write(text)
    return count


def complain() -> str:
    sys.stderr.write("a complaint\n")
    return "done"


# -- shared objects -------------------------------------------------------------------------------


def acquire(lock: Any) -> bool:
    with lock:
        return True
