"""Which functions may leave the process, by what their code is seen to do; and which arguments."""

import dataclasses
import enum
import functools
import hashlib
import heapq
import json
import math
import operator
import random
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from unirun._plain import CHANGES, FIXED, FOREIGN, kind_of
from unirun._travel import judge

WORD = re.compile(r"\w+")
LIMIT = 10
NAMES = ("a", "b")
TABLE: dict[str, int] = {}
LOCK = threading.Lock()


class Colour(enum.Enum):
    RED = 1


class Wrong(ValueError):
    pass


class Counter:
    count = 0

    def method(self, n: int) -> int:
        return n


def total(n: int) -> int:
    found = 0
    for i in range(n):
        found += i * i
    return found


def squares(numbers: list[int]) -> list[int]:
    found = []
    for each in numbers:
        found.append(each * each)  # noqa: PERF401
    return found


def counted(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in WORD.findall(text):
        found[word] = found.get(word, 0) + 1
    return found


def appends(numbers: list[int]) -> int:
    numbers.append(1)
    return 1


def stores(numbers: list[int], at: int) -> int:
    numbers[at + 1] = 1
    return at


def deletes(numbers: list[int]) -> int:
    del numbers[0]
    return 1


def adds_in_place(numbers: list[int]) -> int:
    numbers += [1]
    return 1


def adds_in_place_by_another_name(numbers: list[int]) -> int:
    others = numbers
    others += [1]
    return 1


def changes_what_is_in_it(rows: list[list[int]]) -> int:
    for row in rows:
        row[0] = 1
    return 1


def changes_by_a_function(numbers: list[int]) -> int:
    return appends(numbers)


def changes_by_a_known_function(numbers: list[int]) -> int:
    heapq.heapify(numbers)
    return 1


def sets_an_attribute_of_an_argument(thing: Any) -> int:
    thing.colour = 1
    return 1


def counts_down(n: int) -> int:
    while n:
        n -= 1
    return n


def sorted_copy(numbers: list[int]) -> list[int]:
    return sorted(numbers, key=operator.neg)


def reads_constants(n: int) -> object:
    return n + LIMIT, NAMES, math.pi


def refuses(n: int) -> int:
    if n < 0:
        raise Wrong(n)
    return n


def digest(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.sha256(file.read()).hexdigest()


def queries(n: int) -> Any:
    with sqlite3.connect(":memory:") as database:
        return database.execute("select ?", (n,)).fetchone()


def sleeps(seconds: float) -> None:
    time.sleep(seconds)


def comprehends(n: int) -> list[int]:
    return [total(i) + LIMIT for i in range(n)]


def short(n: int, m: float = 2.0) -> float:
    return n * m + 1 if n > 3 else abs(n)


# -- what stays -----------------------------------------------------------------------------------


def writes_a_global(n: int) -> int:
    global LIMIT
    LIMIT = n
    return n


def reads_what_can_change(key: str) -> int | None:
    return TABLE.get(key)


def takes_a_lock(n: int) -> int:
    with LOCK:
        return n


def rolls(n: int) -> float:
    return random.random() * n


def prints(n: int) -> None:
    print(n)  # noqa: T201


def evaluates(text: str) -> Any:
    return eval(text)


def counts_on_a_class(n: int) -> int:
    Counter.count += 1
    return n


def counts_on_a_function(n: int) -> int:
    counts_on_a_function.calls = n  # type: ignore[attr-defined]
    return n


def finds_a_thread(n: int) -> int:
    return threading.get_ident() + n


def imports(n: int) -> int:
    import os

    return os.getpid() + n


def remembers(n: int, known: list[int] = []) -> int:  # noqa: B006
    known.append(n)
    return len(known)


def calls_one_that_stays(n: int) -> int:
    return writes_a_global(n)


def in_a_comprehension(n: int) -> list[int | None]:
    return [reads_what_can_change(str(i)) for i in range(n)]


def yields(n: int) -> Any:
    yield n


async def waits(n: int) -> int:
    return n


@functools.lru_cache
def cached(n: int) -> int:
    return n


def uses_a_cached_one(n: int) -> int:
    return cached(n)


def closure() -> Callable[[], int]:
    seen: list[int] = []

    def inner() -> int:
        seen.append(1)
        return len(seen)

    return inner


@pytest.mark.parametrize(
    "fn",
    [
        *(total, squares, counted, counts_down, sorted_copy, reads_constants, refuses),
        *(digest, queries, sleeps, comprehends, short, json.dumps, zlib.compress, math.factorial),
        *(appends, stores),
        lambda n: n + LIMIT,
    ],
)
def test_what_is_seen_to_be_harmless_may_travel(fn: Any) -> None:
    assert judge(fn).reason == ""


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (writes_a_global, "it writes the global 'LIMIT' (line "),
        (reads_what_can_change, "it reads the global 'TABLE', a dict, which can change (line "),
        (takes_a_lock, "it reads the global 'LOCK', a lock, which can change"),
        (rolls, "it calls random(), a method of a Random (line "),
        (prints, "it calls print()"),
        (evaluates, "it calls eval()"),
        (counts_on_a_class, "it uses the class 'Counter'"),
        (counts_on_a_function, "it sets the attribute 'calls'"),
        (finds_a_thread, "it calls _thread.get_ident, of which nothing is known"),
        (imports, "it imports os, of which nothing is known"),
        (remembers, "it has a default value that can change"),
        (calls_one_that_stays, "it calls writes_a_global(), which writes the global 'LIMIT'"),
        (in_a_comprehension, "it calls reads_what_can_change(), which reads the global 'TABLE'"),
        (yields, "it is a generator function"),
        (waits, "it is a coroutine function"),
        (cached, "it is a _lru_cache_wrapper, not a plain function"),
        (uses_a_cached_one, "it reads the global 'cached', a _lru_cache_wrapper"),
        (closure(), "it uses 'seen' of the function around it"),
        (Counter().method, "it is a method, not a plain function"),
        ([].append, "it is a method of a list"),
        (functools.partial(total, 1), "it is a partial, not a plain function"),
        (Counter, "it is a type, not a plain function"),
        (time.process_time, "it calls process_time()"),
    ],
)
def test_what_is_not_seen_to_be_harmless_stays_and_is_told_why(fn: Any, why: str) -> None:
    assert judge(fn).reason.startswith(why)


@pytest.mark.parametrize(
    ("fn", "changes"),
    [
        (total, set()),
        (squares, set()),
        (counted, set()),
        (sorted_copy, set()),
        (appends, {"numbers"}),
        (stores, {"numbers"}),
        (deletes, {"numbers"}),
        (adds_in_place, {"numbers"}),
        (adds_in_place_by_another_name, {"*"}),
        (changes_what_is_in_it, {"*"}),
        (changes_by_a_function, {"*"}),
        (changes_by_a_known_function, {"*"}),
        (sets_an_attribute_of_an_argument, {"thing"}),
        (counts_down, {"n"}),
    ],
)
def test_the_parameters_that_may_be_changed_are_named(fn: Any, changes: set[str]) -> None:
    verdict = judge(fn)
    assert verdict.reason == ""
    assert verdict.changes == changes


@pytest.mark.parametrize(
    ("fn", "is_short"),
    [
        (short, True),
        (lambda n: n + LIMIT, True),
        (total, False),
        (lambda n: 2**n, False),
        (lambda n: 1 << n, False),
        (lambda n: "x" * n, False),
        (lambda n: total(n), False),
        (lambda n: sum(range(n)), False),
        (lambda n: [0] * n, False),
        (counts_down, False),
        (math.factorial, False),
        (refuses, False),
    ],
)
def test_only_straight_code_without_calls_is_short_whatever_it_is_given(
    fn: Any, is_short: bool
) -> None:
    assert judge(fn).is_short is is_short


def test_what_depends_on_the_working_directory_is_told() -> None:
    assert judge(digest).files
    assert judge(queries).files
    assert not judge(total).files


def test_a_verdict_holds_until_what_it_was_built_on_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict = judge(comprehends)
    assert verdict.holds()
    monkeypatch.setitem(globals(), "LIMIT", 11)
    assert not verdict.holds()
    monkeypatch.undo()
    assert verdict.holds()
    monkeypatch.setitem(globals(), "range", lambda n: ())  # a builtin is hidden
    assert not verdict.holds()


class Strange:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self) -> None: ...


def test_whatever_is_called_is_judged_without_an_error() -> None:
    assert judge(Strange()).reason


@dataclasses.dataclass
class Thing:
    n: int


class Numbers(list[int]):
    pass


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, FIXED),
        ("a", FIXED),
        (None, FIXED),
        ((1, ("a", b"c")), FIXED),
        (frozenset({1}), FIXED),
        (range(3), FIXED),
        (Colour.RED, FIXED),
        (WORD, FIXED),
        (Decimal(1), FIXED),
        (Path("a"), FIXED),
        ([1, 2], CHANGES),
        ({"a": [1]}, CHANGES),
        ((1, [2]), CHANGES),
        (bytearray(b"a"), CHANGES),
        (Thing(1), FOREIGN),
        ([1, Thing(1)], FOREIGN),
        ({"a": {"b": object()}}, FOREIGN),
        ((lambda: 1,), FOREIGN),
        (Numbers(), FOREIGN),
        (memoryview(b"a"), FOREIGN),
        (threading.Lock(), FOREIGN),
    ],
)
def test_only_plain_data_is_plain_data(value: object, kind: int) -> None:
    assert kind_of(value) == kind


def test_arrays_are_plain_unless_they_hold_objects() -> None:
    numpy = pytest.importorskip("numpy")
    assert kind_of(numpy.zeros(3)) == CHANGES
    assert kind_of(numpy.array([object()])) == FOREIGN


def test_a_list_that_holds_itself_comes_to_an_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert kind_of(endless) == FOREIGN
