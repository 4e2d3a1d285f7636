"""Functions as programs have them, of which nobody has said what they spend their time on."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sqlite3
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

WORD = re.compile(r"\b(\w+)\s+\1?\w*\b")
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 40
RECORDS = json.dumps([{"id": n, "name": f"n{n}", "tags": ["a", "b", n]} for n in range(400)])
DATA = bytes(range(256)) * 1024


def parse_json(text: str) -> int:
    return len(json.loads(text))


def match(text: str) -> int:
    return len(WORD.findall(text))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compress(data: bytes) -> int:
    return len(zlib.compress(data))


def multiply(size: int) -> float:
    import numpy

    matrix = numpy.arange(size * size, dtype=float).reshape(size, size)
    return float((matrix @ matrix).sum())


def query(rows: int) -> int:
    with sqlite3.connect(":memory:") as database:
        database.execute("create table t (n integer, text text)")
        many = ((n, str(n)) for n in range(rows))
        database.executemany("insert into t values (?, ?)", many)
        found = database.execute("select count(*) from t where n % 7 = 3 and text like '%1%'")
        return int(found.fetchone()[0])


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def read(path: str) -> int:
    with open(path, "rb") as file:  # noqa: PTH123 - a worker need not import pathlib
        return len(file.read())


def wait_for_socket(seconds: float) -> int:
    """As a request to a server that takes so long to answer."""
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(seconds)
        try:
            return len(one.recv(1))
        except TimeoutError:
            return 0


def loop(count: int) -> int:
    found = 0
    for n in range(count):
        found = (found * 31 + n) % 1_000_003
    return found


def area(width: int) -> int:
    return width * 3 + 1


def add_up(numbers: list[int]) -> int:
    return sum(numbers)


def count_zeros(data: bytes) -> int:
    return data.count(0)


def nap_and_loop(seconds: float) -> int:
    time.sleep(seconds)
    return loop(10_000)


def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


NUMBERS = list(range(20_000))
BIG = bytes(4 << 20)

# Name -> function, its argument, and how many calls are a batch.
TASKS: dict[str, tuple[Callable[[Any], Any], Any, int]] = {
    "json": (parse_json, RECORDS, 150),
    "regex": (match, TEXT, 150),
    "sha256": (digest, DATA, 250),
    "zlib": (compress, DATA, 60),
    "numpy": (multiply, 160, 80),
    "sqlite": (query, 1000, 60),
    "sleep": (nap, 0.002, 40),
    "file read": (read, __file__, 1500),
    "socket wait": (wait_for_socket, 0.002, 40),
    "python long": (loop, 60_000, 24),
    "python short": (loop, 200, 3000),
    "python tiny": (area, 7, 10_000),
    "recursion": (fibonacci, 16, 120),
    "large list": (add_up, NUMBERS, 150),
    "large bytes": (count_zeros, BIG, 60),
    "mixed": (nap_and_loop, 0.001, 40),
}
