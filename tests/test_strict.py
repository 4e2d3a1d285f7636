"""What strict inline reports, at which line, and what it keeps quiet about."""

import asyncio
import enum
import functools
import io
import queue
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import findings
import pytest
from findings import codes, line_of, one

import unirun
from unirun import Executor, SerializationError, StrictWarning, _strict

executor, found = findings.executor, findings.found

HERE = Path(__file__).resolve()
MISSING = object()
OPEN: list[Any] = []
HELD: list[Any] = []
CALLS = 0


class Colour(enum.Enum):
    RED = 1


class Box:
    def __init__(self, value: Any = 0) -> None:
        self.value = value

    @functools.cached_property
    def double(self) -> Any:
        return self.value * 2

    @unirun.task(kind="cpu")
    def grow(self) -> None:
        self.value += 1


class Opaque(Box):
    def __getstate__(self) -> dict[str, Any]:
        return {"value": self.value}


def count_calls(_: int) -> None:
    global CALLS
    CALLS += 1


# -- what cannot travel ---------------------------------------------------------------------------


def same(x: Any) -> Any:
    return x


def nothing(*args: Any, **kwargs: Any) -> None:
    return None


def opened() -> Any:
    return OPEN[0]


def make_lock() -> Any:
    return threading.Lock()


def test_an_argument_that_cannot_be_pickled_is_reported_and_the_call_goes_on(executor, found):
    lock = threading.Lock()
    future = executor.submit(nothing, [lock])  # a lock is submitted
    assert future.result() is None
    text = one(found, "arg-pickle", __file__, "a lock is submitted")
    assert "test_strict.nothing: the call cannot be pickled: at args[0][0]: TypeError: " in text
    assert "hand over plain data" in text


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: threading.Lock(), "args[0]"),
        (lambda: (n for n in range(3)), "args[0]"),
        (lambda: queue.Queue(), "args[0]"),
        (lambda: Box([threading.Lock()]), "args[0].value[0]"),
    ],
    ids=["lock", "generator", "queue", "inside"],
)
def test_each_of_what_cannot_travel_is_named_by_its_path(executor, found, make, path):
    assert executor.submit(nothing, make()).result() is None
    assert codes(found) == ["arg-pickle"]
    assert f"at {path}" in str(found[0].message)


def test_an_open_file_is_reported_though_it_would_arrive_as_what_is_in_it(executor, found):
    with HERE.open() as file:
        OPEN[:] = [file]
        executor.submit(nothing, file).result()
        executor.submit(nothing, io.StringIO("in memory")).result()
        assert executor.submit(opened).result() is not OPEN[0]
    assert codes(found) == ["arg-pickle", "result-pickle"]
    assert "is handed an open file as number 1" in str(found[0].message)
    assert "returns an open file as its result" in str(found[1].message)


def test_a_closure_with_a_lock_is_named_by_its_variable(executor, found):
    guard = threading.Lock()

    def body() -> bool:
        with guard:
            return True

    assert executor.submit(body).result() is True
    assert codes(found) == ["arg-pickle"]
    assert "<closure guard>" in str(found[0].message)


def test_a_lambda_that_can_travel_is_not_reported(executor, found):
    factor = 3
    assert executor.submit(lambda x: x * factor, 2).result() == 6
    assert found == []


def test_a_result_that_cannot_be_pickled_is_reported_and_handed_over(executor, found):
    lock = executor.submit(make_lock).result()  # a lock comes back
    assert lock.acquire(blocking=False)
    text = one(found, "result-pickle", __file__, "a lock comes back")
    assert "test_strict.make_lock: the result cannot be pickled: TypeError" in text


def test_nothing_is_reported_of_a_call_that_belongs_to_threads(executor, found):
    argument = [threading.Lock()]
    future = executor.options(kind="io").submit(same, argument)
    assert future.result() is argument
    assert executor.options(kind="native").submit(mutate, argument).result() is None
    assert len(argument) == 2
    assert found == []


def test_without_a_hint_an_executor_made_for_inline_copies_and_refuses_as_ever(found):
    with Executor(backend="inline") as executor:
        argument = [1]
        assert executor.submit(same, argument).result() is not argument
        assert isinstance(executor.submit(same, threading.Lock()).exception(), SerializationError)
        assert executor.submit(mutate, argument).result() is None
    assert argument == [1]
    assert found == []


# -- arguments that change ------------------------------------------------------------------------


def mutate(items: Any, more: int = 1) -> None:
    items.append(more)


def fill(box: Box) -> Any:
    box.value["deep"][0] = 2
    return box.value["deep"][0]


def sort(items: list[int]) -> list[int]:
    items.sort()
    return items


def failing(items: list[int]) -> None:
    items.append(1)
    raise ValueError("after a change")


def test_an_argument_that_the_task_changes_is_reported_and_stays_as_it_was(executor, found):
    mine = [1]
    executor.submit(mutate, mine).result()  # it is changed
    assert mine == [1]
    text = one(found, "arg-change", __file__, "it is changed")
    assert text.startswith("[arg-change] test_strict.mutate changes its argument 'items'; ")


def test_an_argument_given_by_name_is_named_the_same(executor, found):
    mine = [1]
    executor.submit(mutate, items=mine).result()
    assert "argument 'items'" in str(found[0].message)


def test_a_change_deep_inside_is_named_by_its_path(executor, found):
    box = Box({"deep": [1]})
    assert executor.submit(fill, box).result() == 2
    assert box.value == {"deep": [1]}
    assert codes(found) == ["arg-change"]
    assert "argument 'box' (in .value[...][...]);" in str(found[0].message)


def test_the_object_of_a_method_is_an_argument_too(executor, found):
    box = Box()
    with executor:
        box.grow.submit().result()
    assert box.value == 0
    assert codes(found) == ["arg-change"]
    assert "Box.grow changes its argument 'self' (in .value)" in str(found[0].message)


def test_a_change_is_reported_though_the_task_fails(executor, found):
    mine = [0]
    assert isinstance(executor.submit(failing, mine).exception(), ValueError)
    assert codes(found) == ["arg-change"]


def test_a_change_to_what_nobody_else_has_is_not_reported(executor, found):
    executor.submit(mutate, [1]).result()
    executor.submit(mutate, executor.submit(sort, [2, 1]).result()).result()
    assert list(executor.map(mutate, ([n] for n in range(3)))) == [None] * 3
    assert list(executor.map(mutate, executor.map(sort, [[2, 1], [3]]))) == [None] * 2
    assert found == []


@pytest.mark.parametrize("where", ["list", "dict", "attribute", "closure", "global"])
def test_a_change_is_reported_however_the_caller_holds_it(executor, found, where):
    def make() -> Any:
        inner = [1]
        HELD[:] = [inner]
        return {
            "list": [[inner]],
            "dict": {"a": inner},
            "attribute": Box(inner),
            "closure": lambda: inner,
            "global": None,
        }[where]

    def taken(holder: Any) -> Any:
        ways = {"list": lambda: holder[0][0], "dict": lambda: holder["a"]}
        ways |= {"global": lambda: HELD[0]}
        ways |= {"attribute": lambda: holder.value, "closure": lambda: holder()}
        return ways[where]()

    holder = make()
    if where != "global":
        HELD.clear()
    executor.submit(mutate, taken(holder)).result()
    assert codes(found) == ["arg-change"]
    assert taken(holder) == [1]


def test_a_map_reports_changes_to_the_items_of_a_list_once(executor):
    mine = [[n] for n in range(5)]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default", StrictWarning)
        list(executor.map(mutate, mine, range(5)))  # a map
    one(found, "arg-change", __file__, "a map")


def test_a_map_that_bundles_items_names_the_task_and_its_argument(executor, found):
    mine = [[n] for n in range(4)]
    list(executor.map(mutate, mine, range(4), chunksize=4))
    assert codes(found) == ["arg-change"] * 4
    assert str(found[0].message).startswith("[arg-change] test_strict.mutate changes its argument ")
    list(executor.map(nothing, [1, threading.Lock()], chunksize=2))
    assert str(found[4].message).startswith("[arg-pickle] test_strict.nothing: the call cannot")


def test_a_change_is_found_where_pickles_differ_by_chance(executor, found):
    """Equal strings may be one object or two, in pickles as in memory."""
    mine = Box(["".join(["a", "b"]), "".join(["a", "b"]), {"ab": {3, 2, 1}}])
    executor.submit(nothing, mine).result()
    named = Opaque({"value": 1})  # an attribute has that name, too, as the same object
    with Executor(backend="inline", kind="cpu", copy=False) as without_copies:
        without_copies.submit(nothing, named).result()
        assert found == []
        mine_too = [1]
        without_copies.submit(mutate, mine_too, named).result()
    assert ["'items'" in str(each.message) for each in found] == [True]


def test_what_is_computed_once_and_kept_is_no_change(executor, found):
    box = Box(4)
    assert executor.submit(lambda box: box.double, box).result() == 8
    assert found == []


class Counted:
    pickled = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> Any:
        Counted.pickled += 1
        return Counted, (self.size,), {"content": bytes(self.size)}


@pytest.mark.parametrize(("more", "times"), [(0, 1), (-1000, 2)])
def test_a_large_argument_is_not_pickled_a_second_time(executor, found, monkeypatch, more, times):
    monkeypatch.setattr(Counted, "pickled", 0)
    executor.submit(nothing, Counted(_strict.LARGEST + more)).result()
    assert Counted.pickled == times
    assert _strict.LARGEST == 16 * 2**20
    assert found == []


# -- identity -------------------------------------------------------------------------------------


def test_comparing_a_returned_argument_with_is_is_reported_at_that_line(executor, found):
    mine = [1]
    result = executor.submit(same, mine).result()
    assert result is not mine  # compared
    text = one(found, "result-identity", __file__, "compared")
    assert "'mine' is compared with 'is'" in text


def test_an_argument_that_is_changed_returned_and_used_again_is_reported(executor, found):
    mine = [2, 1]
    executor.submit(sort, mine).result()  # sorted
    assert mine == [2, 1]
    assert "goes on with 'mine'" in one(found, "result-identity", __file__, "sorted")


def test_an_argument_that_is_replaced_by_the_result_is_not_reported(executor, found):
    mine = [2, 1]
    mine = executor.submit(sort, mine).result()
    assert mine == [1, 2]
    other = [3]
    assert executor.submit(same, other).result() == other
    assert found == []


def test_a_sentinel_loses_its_identity_and_is_reported(executor, found):
    assert executor.submit(lambda x: x is None, MISSING).result() is False
    assert executor.submit(lambda: MISSING).result() is not None
    assert codes(found) == ["result-identity", "result-identity"]
    assert "is handed a bare object() as 'x'" in str(found[0].message)
    assert "returns a bare object() as its result" in str(found[1].message)


def test_what_arrives_as_itself_may_be_compared_with_is(executor, found):
    colour, kind = Colour.RED, Box
    assert executor.submit(same, colour).result() is colour
    assert executor.submit(same, kind).result() is kind
    assert found == []


# -- who decides ----------------------------------------------------------------------------------


def test_each_line_is_reported_once(executor):
    mine = [1]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default", StrictWarning)
        for _ in range(3):
            executor.submit(mutate, mine).result()
            executor.submit(count_calls, 1).result()
    assert sorted(codes(found)) == ["arg-change", "global-write"]


def test_a_filter_makes_an_error_of_it_that_ends_the_future_and_names_the_line(executor):
    mine = [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", StrictWarning)
        error = executor.submit(mutate, mine).exception()  # an error
        ran = executor.submit(mutate, threading.Lock()).exception()
    assert isinstance(error, StrictWarning)
    assert error.__notes__ == [f"found at {__file__}:{line_of(__file__, 'an error')}"]
    assert str(ran).startswith("[arg-pickle]")  # and not that a lock has no append()
    assert executor.submit(same, 1).result() == 1


def test_an_error_of_the_task_is_not_hidden_by_a_warning(executor):
    mine = [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", StrictWarning)
        assert isinstance(executor.submit(failing, mine).exception(), ValueError)


def test_it_can_be_switched_off(found):
    with Executor(backend="inline", kind="cpu", strict=False) as executor:
        mine = [1]
        assert executor.submit(mutate, mine).result() is None
        executor.submit(count_calls, 1).result()
        assert isinstance(executor.submit(same, threading.Lock()).exception(), SerializationError)
    assert mine == [1]
    assert found == []


def test_without_copies_it_still_reports(found):
    with Executor(backend="inline", kind="cpu", copy=False) as executor:
        mine = [1]
        assert executor.submit(mutate, mine).result() is None
    assert mine == [1, 1]
    assert codes(found) == ["arg-change"]


def test_a_call_with_a_time_limit_is_looked_at_too(executor, found):
    mine = [1]
    executor.options(timeout=30).submit(mutate, mine).result()  # limited
    one(found, "arg-change", __file__, "limited")


@pytest.mark.parametrize(
    ("made_with", "options", "expected"),
    [
        ({}, {"kind": "cpu"}, True),
        ({}, {"kind": "isolated"}, True),
        ({}, {"kind": "io"}, False),
        ({}, {}, False),
        ({"backend": "process"}, {"kind": "io"}, True),
        ({"backend": "thread"}, {"kind": "cpu"}, False),
        ({"kind": "cpu"}, {}, True),
        ({"backend": "inline"}, {"kind": "isolated"}, True),
        ({"backend": "inline"}, {}, None),
    ],
)
def test_what_a_forced_call_was_meant_for_is_what_it_would_be_without(
    monkeypatch, made_with, options, expected
):
    monkeypatch.setenv("UNIRUN_BACKEND", "inline")
    with Executor(**made_with) as executor:
        plan = executor._plan(same, executor.options(**options)._given)
        assert plan.options.copied is expected


def test_a_task_that_demands_processes_and_a_route_to_inline_are_looked_at(found):
    @unirun.task(backend="process")
    def by_demand(items: list[int]) -> None:
        items.append(1)

    mine = [1]
    with Executor() as executor, unirun.config(routes={"cpu": "inline", "io": "inline"}):
        executor.options(kind="cpu").submit(mutate, mine).result()
        assert executor.options(kind="io").submit(same, mine).result() is mine
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIRUN_BACKEND", "inline")
        with Executor():
            by_demand.submit(mine).result()
    assert codes(found) == ["arg-change", "arg-change"]


def test_an_event_loop_between_caller_and_call_hides_no_line(executor, found):
    async def main() -> None:
        mine = [1]
        await asyncio.wrap_future(executor.submit(mutate, mine))  # awaited
        assert mine == [1]

    asyncio.run(main())
    one(found, "arg-change", __file__, "awaited")


def test_who_runs_nothing_that_belongs_to_processes_does_not_even_import_the_checks():
    program = (
        "import sys, unirun\n"
        "with unirun.Executor(backend='inline') as executor:\n"
        "    executor.submit(int).result()\n"
        "    executor.options(kind='io').submit(int).result()\n"
        "    before = {'unirun._strict', 'dis'} & set(sys.modules)\n"
        "    executor.options(kind='cpu').submit(int).result()\n"
        "print(sorted(before), 'unirun._strict' in sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=40, check=True
    )
    assert ended.stdout == "[] True\n"
