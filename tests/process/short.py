"""Short calls that note their start, and what may go wrong among them. Light: workers import it."""

import os
import signal
import sys
import time

from process.line import Line

_logs: dict[str, int] = {}  # this process's descriptors, closed by its end


def note(log: str, number: int) -> None:
    """One write to a file opened for appending: neither torn nor lost, whoever dies."""
    if log not in _logs:
        _logs[log] = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_logs[log], b"%d %d\n" % (number, os.getpid()))


def quick(log: str, number: int) -> int:
    note(log, number)
    return number


def act(log: str, number: int, mode: str, seconds: float = 0.0) -> object:
    """All kinds by one function, so that they share workers."""
    note(log, number)
    if mode == "nap":
        time.sleep(seconds)
    elif mode == "raise":
        raise ValueError(number)
    elif mode == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "exit":
        os._exit(3)
    elif mode == "segfault":
        __import__("ctypes").string_at(0)
    elif mode == "hang":
        time.sleep(1000)
    elif mode == "large":
        return b"x" * 20_000 + b"%d" % number
    return number


def wait_at(log: str, number: int, at: int, ready: Line, line: Line) -> int:
    """One of many; only the call number `at` waits until it is told to go on."""
    note(log, number)
    if number == at:
        ready.send(os.getpid())
        line.wait()
    return number


def say(number: int) -> int:
    sys.stdout.write(f"<{number}>\n")
    return number


def who(number: int) -> tuple[int, str, int, int, str]:
    from unirun import current_task

    task = current_task()
    assert task is not None
    return number, task.name, task.id, task.attempt, task.worker
