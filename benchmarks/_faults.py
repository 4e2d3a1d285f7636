"""The calls of a stress run: each writes its number to the start log, then does what it is told.

A worker imports this file, so it imports next to nothing.
"""

import os
import signal
import time

QUICK, SLOW, RAISE, CRASH, HANG = "quick", "slow", "raise", "crash", "hang"

_logs: dict[str, int] = {}  # this process's descriptors, closed by its end


def act(number: int, mode: str, log: str) -> int:
    _note(number, log)
    if mode == SLOW:
        time.sleep(0.01)
    elif mode == RAISE:
        raise ValueError(number)
    elif mode == CRASH:
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == HANG:
        time.sleep(300)
    return number


def _note(number: int, log: str) -> None:
    """One write to a file opened for appending: neither torn nor lost, whoever dies."""
    if log not in _logs:
        _logs[log] = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_logs[log], b"%d\n" % number)
