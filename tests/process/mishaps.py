"""What goes wrong in workers: crashes with last words, and memory that is used up. Light."""

import logging
import os
import subprocess
import sys
import time

from process.line import Line

MIB = 1 << 20

kept: list[bytes] = []


# -- crashes --------------------------------------------------------------------------------------


def read_address_zero() -> None:
    __import__("ctypes").string_at(0)


def call_what_crashes() -> None:
    read_address_zero()


def abort() -> None:
    os.abort()


def say(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return os.getpid()


def say_and_exit(text: str, status: int) -> None:
    say(text)
    os._exit(status)


def say_and_crash(text: str) -> None:
    say(text)
    read_address_zero()


def say_and_wait(text: str, ready: Line) -> None:
    say(text)
    ready.send(os.getpid())
    time.sleep(1000)


def warn_and_exit(text: str) -> None:
    logging.warning(text)
    os._exit(3)


def fork_a_child_that_crashes() -> int:
    pid = os.fork()
    if not pid:
        say_and_crash("the child")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def crash_after_a_child_did() -> None:
    fork_a_child_that_crashes()
    say("the worker")
    os._exit(3)


# -- memory ---------------------------------------------------------------------------------------


def fill(size: int) -> bytes:
    """Takes that much memory, and touches all of it."""
    return b"x" * size


def hog(size: int, ready: Line | None = None) -> None:
    held = fill(size)
    if ready is not None:
        ready.send(os.getpid())
    time.sleep(1000)
    del held


def hog_step_by_step(size: int) -> None:
    held = []
    for _ in range(size // MIB):
        held.append(fill(MIB))
        time.sleep(0.001)
    time.sleep(1000)


def hog_in_a_child(size: int, ready: Line) -> None:
    code = f"import time; held = b'x' * {size}; time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    ready.send(child.pid)
    time.sleep(1000)


def use_and_return(size: int, value: int) -> int:
    return len(fill(size)) * 0 + value


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def keep(size: int) -> int:
    """A leak: what it took stays with the worker."""
    kept.append(fill(size))
    return os.getpid()


def share(size: int) -> int:
    """Memory that is not the worker's alone."""
    import mmap

    shared = mmap.mmap(-1, size)
    for _ in range(size // MIB):
        shared.write(fill(MIB))
    time.sleep(0.3)
    return len(shared)


def hog_or_return(size: int, much: int) -> int:
    held = fill(size)
    if size >= much:
        time.sleep(1000)
    return len(held)
