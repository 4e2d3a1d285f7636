"""Functions that the tests of Dask submit; a worker imports them."""

import os
import socket
import time
from typing import Any

import unirun


def attempt_at(gate: tuple[str, int], path: str) -> int:
    """Note that it ran, with whom it runs in, and wait at the gate."""
    with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f"{os.getpid()}\n")
    with socket.create_connection(gate, 30) as connection:
        connection.sendall(os.getpid().to_bytes(8, "little"))
        connection.recv(1)
    return os.getpid()


def fibonacci(n: int) -> int:
    """Each call two more, which it waits for."""
    if n < 2:
        return n
    first, second = (unirun.submit(fibonacci, n - k) for k in (1, 2))
    return int(first.result(30) + second.result(30))


def settings() -> tuple[Any, Any]:
    """What a `with config()` block around the submit has set here."""
    explained = {key: value for key, value, _ in unirun.explain(len).settings}
    return explained["timeout"], explained["priority"]


def about() -> dict[str, Any]:
    task = unirun.current_task()
    assert task is not None
    return {"name": task.name, "backend": task.backend, "id": task.id, "attempt": task.attempt}


def hold_lock(lock: Any, gate: tuple[str, int]) -> None:
    with lock:
        attempt_at(gate, os.devnull)


def held(lock: Any) -> bool:
    got = bool(lock.acquire(timeout=20))
    lock.release()
    return got


def add(counter: Any, lock: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            counter.set(counter.get() + 1)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def size_of(data: bytes) -> int:
    return len(data)


def double(x: int) -> int:
    return 2 * x


def ends_after(path: str) -> str:
    with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(".")
    return path
