"""What runs in the workers of tests/reliability/test_model.py."""

import os
import socket
import struct
from pathlib import Path
from typing import Any

PATIENCE = 30.0


def wait_to_be_told(address: tuple[str, int], number: int) -> int:
    """Say that this call has begun and where, and end as it is told: "a", "r" or "c"."""
    with socket.create_connection(address, PATIENCE) as connection:
        connection.sendall(struct.pack("qq", number, os.getpid()))
        connection.settimeout(None)  # it lasts as long as the test does
        told = connection.recv(1)
    if told == b"c":
        os._exit(3)
    if told == b"r":
        raise ValueError(number)
    return number


def double(number: int) -> int:
    return 2 * number


def take_and_die(lock: Any) -> None:
    lock.acquire()
    os._exit(4)


def take(lock: Any) -> bool:
    """Whether it was left by a dead owner."""
    with lock:
        return bool(lock.abandoned)


def die_if_there_is(path: str) -> None:
    if Path(path).exists():
        os._exit(6)


def wait_for_a_call_nobody_runs(executor: Any, path: str) -> str:
    """From now on no worker comes up; the call must be killable, so it needs another one."""
    Path(path).touch()
    try:
        executor.options(timeout=60).submit(double, 1).result(60)
    except Exception as exc:  # it is looked at outside
        return f"{type(exc).__name__}: {exc}"
    return "it ran"


def die_at_start(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("x")
    os._exit(5)
