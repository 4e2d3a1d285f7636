"""What calls do when all goes wrong, or seems to; every worker imports this: next to nothing.

The calls of a stress run write their numbers to the start log, then do what they are told.
"""

from __future__ import annotations

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

QUICK, SLOW, RAISE, CRASH, HANG = "quick", "slow", "raise", "crash", "hang"
LINGER = "linger"  # longer than any of them may, but not for ever: it may be in a thread

_logs: dict[str, int] = {}  # this process's descriptors, closed by its end


def act(number: int, mode: str, log: str) -> int:
    _note(number, log)
    if mode == SLOW:
        time.sleep(0.01)
    elif mode == RAISE:
        raise ValueError(number)
    elif mode == CRASH:
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == LINGER:
        time.sleep(0.3)
    elif mode == HANG:
        time.sleep(300)
    return number


def _note(number: int, log: str) -> None:
    """One write to a file opened for appending: neither torn nor lost, whoever dies."""
    if log not in _logs:
        _logs[log] = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_logs[log], b"%d\n" % number)


# -- one by one -----------------------------------------------------------------------------------


def double(number: int) -> int:
    return 2 * number


async def double_async(number: int) -> int:
    return 2 * number


def longer(data: bytearray) -> bytes:
    return bytes(data) + b"."


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lock_and_put(lock: Any, queue: Any) -> None:
    with lock:
        queue.put(1)


def say(fifo: str, word: str = ".") -> None:
    """To whoever reads from that pipe; an empty name is nobody's."""
    if fifo:
        fd = os.open(fifo, os.O_WRONLY)
        os.write(fd, word.encode() + b"\n")
        os.close(fd)


def hang(fifo: str) -> None:
    """Say that the call runs, then run until killed."""
    say(fifo)
    time.sleep(300)


def note_and_nap(number: int, seconds: float, log: str) -> int:
    if log not in _logs:
        _logs[log] = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_logs[log], b"%d %d\n" % (number, os.getpid()))
    time.sleep(seconds)
    return number


def hang_with_child(queue: Any) -> None:
    import subprocess

    child = subprocess.Popen(["sleep", "300"])
    queue.put((os.getpid(), child.pid))
    time.sleep(300)


def hold_and_hang(lock: Any, fifo: str) -> None:
    with lock:
        hang(fifo)


def take(lock: Any, fifo: str) -> float:
    """When it was taken, by a clock that all processes have in common."""
    say(fifo)
    with lock:
        return time.monotonic()


def down(depth: int) -> int:
    """How deep it went."""
    import unirun

    return 1 + unirun.submit(down, depth - 1).result() if depth > 1 else 1
