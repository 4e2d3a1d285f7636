"""Functions are sent once where that is right, and as they are at submit where it is not."""

import json
import math
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import pytest

from unirun.backend import DEFAULT_OPTIONS
from unirun.backends.process.functions import FunctionTable

SOURCE = """
import math
K = 3
ITEMS = [1]
SHADE = None

def helper(x):
    return x + K

def calls_a_helper(x):
    return helper(x)

def uses_a_module(x):
    return math.floor(x)

def uses_a_list():
    return len(ITEMS)

def recurses(n):
    return 1 if n == 0 else n * recurses(n - 1)

def counts():
    global K
    K += 1
    return K

def measures(x):
    return len(x)
"""


@pytest.fixture
def script() -> dict[str, Any]:
    """The globals of a program: what it defines can be imported by nobody."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(SOURCE, "<script>", "exec"), names)
    return names


def number_of(table: FunctionTable, fn: Any) -> int:
    return table.profile(fn, DEFAULT_OPTIONS).function_id


def adder(amount: Any) -> Callable[[Any], Any]:
    return lambda x: x + amount


def counter() -> Callable[[], int]:
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return count

    return step


@pytest.mark.parametrize("fn", [json.dumps, math.floor, len, dict])
def test_what_can_be_imported_has_one_number(fn: Any) -> None:
    table = FunctionTable()

    assert number_of(table, fn) == number_of(table, fn) != 0


@pytest.mark.parametrize("name", ["helper", "calls_a_helper", "uses_a_module", "recurses"])
def test_a_function_of_the_program_has_one_number_while_nothing_changes(
    script: dict[str, Any], name: str
) -> None:
    table = FunctionTable()

    assert number_of(table, script[name]) == number_of(table, script[name]) != 0


@pytest.mark.parametrize("name", ["uses_a_list", "counts"])
def test_a_function_that_holds_something_mutable_travels_each_time(
    script: dict[str, Any], name: str
) -> None:
    assert number_of(FunctionTable(), script[name]) == 0


@pytest.mark.parametrize("name", ["helper", "calls_a_helper"])
def test_a_global_that_was_rebound_is_noticed(script: dict[str, Any], name: str) -> None:
    table = FunctionTable()
    before = number_of(table, script[name])
    script["K"] = 4

    assert number_of(table, script[name]) not in (0, before)


def test_a_global_that_hides_a_builtin_later_is_noticed(script: dict[str, Any]) -> None:
    table = FunctionTable()
    before = number_of(table, script["measures"])
    script["len"] = math.floor

    assert number_of(table, script["measures"]) not in (0, before)


def test_a_helper_that_was_defined_anew_is_noticed(script: dict[str, Any]) -> None:
    table = FunctionTable()
    before = number_of(table, script["calls_a_helper"])
    exec("def helper(x):\n    return -x", script)

    assert number_of(table, script["calls_a_helper"]) not in (0, before)


def test_defaults_that_were_replaced_are_noticed(script: dict[str, Any]) -> None:
    table, fn = FunctionTable(), script["helper"]
    before = number_of(table, fn)
    fn.__defaults__ = (1,)

    assert number_of(table, fn) not in (0, before)


def test_an_attribute_makes_a_function_travel_each_time(script: dict[str, Any]) -> None:
    table, fn = FunctionTable(), script["helper"]
    assert number_of(table, fn) != 0
    fn.seen = []

    assert number_of(table, fn) == 0


def test_closures_of_one_code_are_told_apart_by_what_they_hold() -> None:
    table = FunctionTable()
    one, two = adder(1000), adder(2000)
    data = {table.profile(fn, DEFAULT_OPTIONS).function for fn in (one, two, adder(3000))}

    assert len(data) == 3


def test_a_closure_over_something_mutable_travels_each_time() -> None:
    table = FunctionTable()

    assert number_of(table, adder([])) == 0
    assert number_of(table, counter()) == 0


@pytest.mark.parametrize("fn", [partial(len), "text".upper, [].append])
def test_what_is_no_plain_function_travels_each_time(fn: Any) -> None:
    assert number_of(FunctionTable(), fn) == 0


def test_a_function_that_was_collected_does_not_leave_its_number_to_another() -> None:
    table = FunctionTable()
    seen = set()
    for value in range(50):
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(f"def made(x):\n    return x + {value}", names)
        made = names["made"]
        assert isinstance(made, FunctionType)
        seen.add(number_of(table, made))
        del made, names

    assert len(seen) == 50
