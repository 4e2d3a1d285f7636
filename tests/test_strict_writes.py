"""What strict inline reports of writes to globals and their like, and what it keeps quiet about."""

import sys
from collections.abc import Iterator
from typing import Any

import findings
import pytest
from findings import codes, line_of, one

executor, found = findings.executor, findings.found

TOTAL = 0
READY = None
SEEN: list[int] = []
CACHE: dict[int, int] = {}
COUNTS: dict[str, int] = {}


class Settings:
    level = 0
    cached = None

    def rise(self) -> None:
        type(self).level += 1  # of its class

    @classmethod
    def raise_all(cls) -> None:
        cls.level += 1  # of a class


def write_global(n: int) -> int:
    global TOTAL
    TOTAL += n  # a global
    return TOTAL


def write_by_a_function(n: int) -> None:
    write_global(n)


def write_attribute(n: int) -> None:
    Settings.level += n  # an attribute


def write_module(n: int) -> None:
    unirun_settings.LEVEL = n  # a module


def append(n: int) -> None:
    SEEN.append(n)  # a list


def tally(word: str) -> None:
    COUNTS[word] = COUNTS.get(word, 0) + 1  # a dict


def first_use() -> Any:
    global READY
    if READY is None:
        READY = [1]
    if Settings.cached is None:
        Settings.cached = READY
    return READY


def cached(n: int) -> int:
    if n not in CACHE:
        CACHE[n] = n * n
    return CACHE[n]


def write_what_was_there() -> None:
    global TOTAL
    TOTAL = TOTAL


unirun_settings = type(sys)("unirun_settings")
unirun_settings.LEVEL = 0  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def globals_as_they_were() -> Iterator[None]:
    yield
    global TOTAL, READY
    TOTAL, READY, Settings.level, Settings.cached = 0, None, 0, None
    for each in (SEEN, CACHE, COUNTS):
        each.clear()


@pytest.mark.parametrize(
    ("fn", "subject", "line"),
    [
        (write_global, "the global 'TOTAL'", "a global"),
        (write_by_a_function, "the global 'TOTAL'", "a global"),
        (write_attribute, "the attribute 'Settings.level'", "an attribute"),
        (write_module, "the attribute 'unirun_settings.LEVEL'", "a module"),
        (append, "the global 'SEEN'", "a list"),
    ],
    ids=["global", "by a function", "class", "module", "list"],
)
def test_a_global_that_is_written_is_reported_at_the_line_that_does(
    executor, found, fn, subject, line
):
    executor.submit(fn, 7).result()
    text = one(found, "global-write", __file__, line)
    assert text.startswith(f"[global-write] test_strict_writes.{fn.__name__} changes {subject}; ")


def test_an_attribute_of_a_class_that_is_an_argument_is_reported(executor, found):
    executor.submit(Settings.rise, Settings()).result()
    assert "changes the attribute 'Settings.level'" in str(found[0].message)
    one(found, "global-write", __file__, "of its class")
    found.clear()
    executor.submit(Settings.raise_all.__func__, Settings).result()
    one(found, "global-write", __file__, "of a class")


def test_a_global_dictionary_that_counts_is_reported(executor, found):
    executor.map(tally, ["a", "b"])
    assert found == []  # might be a cache
    executor.submit(tally, "a").result()
    one(found, "global-write", __file__, "a dict")


def test_what_workers_fill_at_first_use_and_caches_are_not_reported(executor, found):
    for _ in range(2):
        assert executor.submit(first_use).result() == [1]
        assert list(executor.map(cached, range(3))) == [0, 1, 4]
    executor.submit(write_what_was_there).result()
    assert found == []


def test_a_variable_of_the_enclosing_function_is_reported(executor, found):
    total, seen = 0, []

    def body() -> None:
        nonlocal total
        total += 1  # nonlocal
        seen.append(1)  # enclosed

    executor.submit(body).result()
    assert codes(found) == ["global-write", "global-write"]
    assert {each.lineno for each in found} == {
        line_of(__file__, "nonlocal"),
        line_of(__file__, "enclosed"),
    }


def test_shared_objects_are_for_being_changed(executor, found):
    total, names, items = executor.Value(0), executor.Dict(), executor.Queue()

    def body(total: Any, names: Any, items: Any) -> None:
        total.update(lambda n: n + 1)
        names["a"] = 1
        items.put(1)

    executor.submit(body, total, names, items).result()
    executor.submit(lambda: body(total, names, items)).result()
    assert (total.value, items.qsize()) == (2, 2)
    assert found == []
