"""@task: a plain call stays one; it travels by name; it runs on the current executor."""

import asyncio
import functools
import inspect
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import environment

import unirun
from unirun import Executor, Task, _executor, task

PATIENCE = 20.0  # seconds after which a test has failed
START_METHODS = ("forkserver", "spawn", "fork")


@task
def double(x: int) -> int:
    """Twice as much."""
    return 2 * x


@task(kind="cpu", timeout=30, retries=0)
def where(x: int = 0, *, y: int = 1) -> tuple[int, int]:
    return os.getpid(), x + y


@task
async def later(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@task
def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


@task
def apply(function: Callable[[int], int], x: int) -> int:
    return function(x)


def fails(x: int) -> None:
    raise LookupError(x)


failing = task(fails)


class Shop:
    """Every kind of method, decorated in every order."""

    def __init__(self, price: int) -> None:
        self.price = price

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shop) and other.price == self.price

    __hash__ = None  # type: ignore[assignment]

    @task
    def method(self, x: int) -> int:
        return self.price * x

    @task(kind="cpu")
    async def async_method(self, x: int) -> int:
        return self.price * x

    @task
    @staticmethod
    def static(x: int) -> str:
        return f"static {x}"

    @staticmethod
    @task
    def inner_static(x: int) -> str:
        return f"static {x}"

    @task
    @classmethod
    def of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @classmethod
    @task
    def inner_of_class(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    class Inner:
        @task
        @staticmethod
        def static(x: int) -> str:
            return f"inner {x}"


class Branch(Shop):
    """Inherits all of them."""


# What is called, and what becomes of 3.
SHAPES: dict[str, tuple[Any, Any]] = {
    "function": (double, 6),
    "coroutine function": (later, 6),
    "method": (Shop(5).method, 15),
    "async method": (Shop(5).async_method, 15),
    "static method": (Shop.static, "static 3"),
    "static method of an object": (Shop(5).static, "static 3"),
    "static method, inner": (Shop.inner_static, "static 3"),
    "class method": (Shop.of_class, "Shop 3"),
    "class method of an object": (Shop(5).of_class, "Shop 3"),
    "class method, inherited": (Branch.of_class, "Branch 3"),
    "nested class": (Shop.Inner.static, "inner 3"),
    "with options": (double.options(timeout=9), 6),
    "method with options": (Shop(5).method.options(timeout=9), 15),
}
if sys.version_info < (3, 13):  # where a classmethod hands on to what it wraps
    SHAPES["class method, inner"] = (Shop.inner_of_class, "Shop 3")
    SHAPES["class method, inner, inherited"] = (Branch(5).inner_of_class, "Branch 3")

shapes = pytest.mark.parametrize(("called", "result"), SHAPES.values(), ids=list(SHAPES))


@pytest.fixture(params=["inline", "thread", *START_METHODS])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    method = request.param
    is_method = method in START_METHODS
    backend = "process" if is_method else method
    with Executor(2, backend=backend, mp_context=method if is_method else None) as executor:
        yield executor


# -- plain ----------------------------------------------------------------------------------------


@shapes
def test_a_call_is_a_plain_call(called: Any, result: object) -> None:
    found = called(3)
    assert (asyncio.run(found) if inspect.isawaitable(found) else found) == result
    assert _executor._default is None, "nothing was started"


def test_a_call_is_in_the_callers_thread_and_raises_what_the_function_raises() -> None:
    assert task(threading.get_ident)() == threading.get_ident()
    with pytest.raises(LookupError) as caught:
        failing(7)
    assert caught.value.args == (7,)
    assert caught.value.__cause__ is None


def test_a_task_looks_like_its_function() -> None:
    assert (double.__name__, double.__qualname__) == ("double", "double")
    assert double.__module__ == __name__
    assert double.__doc__ == "Twice as much."
    assert inspect.signature(where) == inspect.signature(where.fn)
    assert inspect.unwrap(double) is double.fn
    assert Shop(5).method.__name__ == "method"
    assert str(inspect.signature(Shop(5).method.fn)) == "(self, x: int) -> int"
    assert repr(double) == "<unirun.task test_task.double()>"
    assert "kind='cpu'" in repr(where)


def test_a_task_may_call_itself_and_others() -> None:
    assert factorial(5) == 120
    with Executor(1, backend="process") as executor:
        assert executor.submit(factorial, 5).result(PATIENCE) == 120


def test_a_bound_task_is_equal_to_another_of_the_same_object() -> None:
    shop = Shop(5)
    assert shop.method == shop.method
    assert hash(shop.method) == hash(shop.method)
    assert shop.method != Shop(5).method, "equal objects are not the same object"
    assert shop.method != shop.async_method
    assert shop.method != "method"


# -- travelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [double, where, later, Shop.static, Shop.Inner.static])
def test_a_task_pickles_as_its_name(each: Task[..., Any]) -> None:
    data = pickle.dumps(each)
    assert pickle.loads(data) is each
    assert len(data) < 100


def test_a_class_method_pickles_as_class_and_name() -> None:
    data = pickle.dumps(Branch.of_class)
    assert pickle.loads(data)(3) == "Branch 3"
    assert len(data) < 100


def test_a_method_pickles_with_its_object() -> None:
    arrived = pickle.loads(pickle.dumps(Shop(7).method))
    assert arrived(2) == 14
    assert arrived.__self__ == Shop(7)
    assert arrived.__func__ is Shop.method


def test_a_task_with_other_options_keeps_them_on_its_way() -> None:
    arrived = pickle.loads(pickle.dumps(where.options(timeout=5, name="mine")))
    assert arrived.fn is where.fn
    options = {"kind": "cpu", "timeout": 5.0, "retries": 0, "name": "mine"}
    assert arrived.__unirun_options__ == options
    bound = pickle.loads(pickle.dumps(Shop(7).method.options(timeout=5)))
    assert bound(2) == 14
    assert bound.__unirun_options__["timeout"] == 5.0


def test_every_shape_runs_on_every_backend(executor: Executor) -> None:
    expected = {name: result for name, (_, result) in SHAPES.items()}
    futures = {name: executor.submit(called, 3) for name, (called, _) in SHAPES.items()}
    assert {name: future.result(PATIENCE) for name, future in futures.items()} == expected
    maps = {name: executor.map(called, [3, 3]) for name, (called, _) in SHAPES.items()}
    assert {name: list(results) for name, results in maps.items()} == {
        name: [result, result] for name, result in expected.items()
    }


def test_a_task_may_be_an_argument(executor: Executor) -> None:
    assert executor.submit(apply, double, 3).result(PATIENCE) == 6
    assert executor.submit(apply, Shop(2).method, 3).result(PATIENCE) == 6
    assert executor.submit(apply, double.options(timeout=3), 3).result(PATIENCE) == 6


def test_a_task_that_has_no_name_travels_by_value(executor: Executor) -> None:
    factor = 5

    @task(kind="cpu")
    def local(x: int) -> int:
        return factor * x

    anonymous = task(lambda x: factor * x)
    for each in (local, anonymous, local.options(timeout=9)):
        assert executor.submit(each, 3).result(PATIENCE) == 15


def test_a_task_whose_name_now_means_another_travels_by_value(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = double
    monkeypatch.setattr(sys.modules[__name__], "double", task(lambda x: "another"))
    assert executor.submit(replaced, 3).result(PATIENCE) == 6


def test_a_wrapped_task_is_a_function_like_any_other(executor: Executor) -> None:
    @functools.wraps(double)
    def wrapped(x: int) -> int:
        return double(x) + 1

    assert wrapped(3) == 7
    assert executor.submit(wrapped, 3).result(PATIENCE) == 7


MAIN = """
import asyncio, os, sys, unirun
print("main runs")

@unirun.task(kind="cpu")
def work(x):
    return os.getpid(), x * factor

class Shop:
    @unirun.task
    @classmethod
    def name(cls, x):
        return cls.__name__ + x

@unirun.task
async def later(x):
    return x

factor = 2
executor = unirun.Executor(2, mp_context=sys.argv[1])
with executor:
    pid, value = work.submit(21).result(20)
    print(pid != os.getpid(), value)
    print(executor.options(kind="cpu").submit(Shop.name, "!").result(20))
    print(list(executor.options(kind="cpu").map(later, range(3))))
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_tasks_of_a_script_without_a_main_guard_run_in_processes(
    tmp_path: Path, method: str
) -> None:
    (tmp_path / "script.py").write_text(MAIN)
    command = [sys.executable, "script.py", method]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stderr == ""
    assert done.stdout == "main runs\nTrue 42\nShop!\n[0, 1, 2]\n"


# -- where it runs --------------------------------------------------------------------------------


def test_submit_map_and_run_use_the_innermost_executor() -> None:
    with Executor(backend="thread") as outer:
        assert double.submit(3).result(PATIENCE) == 6
        with Executor(backend="inline") as inner:
            assert double.submit(3).result(PATIENCE) == 6
            assert list(double.map([1, 2, 3])) == [2, 4, 6]
            assert double.run(3) == 6
            assert double.options(name="other").run(3) == 6
            assert Shop(5).method.run(3) == 15
            assert list(Shop(5).method.map([1, 2])) == [5, 10]
            assert Shop.of_class.run(3) == "Shop 3"
            assert later.run(3) == 6
            assert list(later.map([1])) == [2]
        assert inner.stats()["inline"].finished == 12
        assert outer.stats()["thread"].finished == 1
    assert _executor._default is None


def test_without_an_executor_the_default_one_is_made_and_kept() -> None:
    assert double.run(3) == 6
    made = unirun.current_executor()
    assert double.submit(4).result(PATIENCE) == 8
    assert unirun.current_executor() is made
    assert made.stats()["thread"].finished == 2


def test_a_task_runs_where_its_kind_belongs() -> None:
    with Executor(1) as executor:
        pid, value = where.submit(1, y=2).result(PATIENCE)
        assert (pid != os.getpid(), value) == (True, 3)
        assert where.options(kind="io").run(1)[0] == os.getpid()
        assert set(executor.stats()) == {"process", "thread"}


@pytest.mark.parametrize("call", [later.submit, Shop(1).async_method.submit])
def test_a_future_can_be_awaited(call: Callable[[int], Any]) -> None:
    async def main() -> Any:
        return await call(3)

    with Executor(1):
        assert asyncio.run(main()) in (3, 6)


def test_a_failure_waits_for_the_result() -> None:
    with Executor(backend="thread"):
        future = failing.submit(7)
        with pytest.raises(LookupError):
            future.result(PATIENCE)
        with pytest.raises(LookupError):
            failing.run(7)
        assert [type(error) for error in failing.map([1, 2], errors="return")] == [LookupError] * 2


def test_explain_says_where_and_runs_nothing() -> None:
    assert where.explain().backend == "process"
    assert "kind = 'cpu'  (@task)" in str(where.explain(1, y=2))
    assert later.explain().backend == "coroutine"
    assert Shop(1).async_method.explain().backend == "process"
    assert unirun.current_executor().stats() == {}


@pytest.mark.skipif(sys.version_info < (3, 13), reason="classmethod hands on to what it wraps")
def test_a_class_method_that_loses_its_class_says_what_to_do() -> None:
    assert Shop.inner_of_class(3) == "Shop 3"
    for use in (Shop.inner_of_class.submit, Shop.inner_of_class.map):
        with pytest.raises(TypeError, match="write @task above @classmethod"):
            use([3])


# -- options --------------------------------------------------------------------------------------


def test_options_make_another_task_and_leave_this_one() -> None:
    before = dict(where.__unirun_options__)
    other = where.options(kind="io", timeout="2m")
    assert other.__unirun_options__ == {"kind": "io", "timeout": 120.0, "retries": 0}
    assert where.__unirun_options__ == before
    assert other.fn is where.fn


def test_decorating_a_task_again_adds_options() -> None:
    again = task(timeout=5)(where)
    assert again.__unirun_options__ == {"kind": "cpu", "timeout": 5.0, "retries": 0}
    assert task(where) is where


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"knid": "cpu"}, unirun.UnknownOption, "@task: unknown option 'knid'; did you mean 'kind'?"),
    ({"knid": "cpu"}, TypeError, "unknown option"),
    ({"kind": "cpuu"}, unirun.ConfigError, "@task: unknown kind 'cpuu'; did you mean 'cpu'?"),
    ({"kind": "cpuu"}, ValueError, "unknown kind"),
    ({"timeout": "soon"}, unirun.ConfigError, "@task: cannot use 'soon' as timeout"),
    ({"retries": -1}, unirun.ConfigError, "cannot use -1 as retries"),
    ({"require": ["killabel"]}, unirun.ConfigError, "did you mean 'killable'?"),
    ({"max_workers": 3}, unirun.UnknownOption, "max_workers belongs to a whole pool"),
    (
        {"backend": "thread", "killable": True},
        unirun.UnsupportedByBackend,
        "the 'thread' backend cannot offer killable",
    ),
    (
        {"require": {"sharedmem", "isolation"}},
        unirun.UnsupportedByBackend,
        "cannot keep require={isolation, sharedmem} together",
    ),
]


@pytest.mark.parametrize(
    "use", [lambda **given: task(**given), double.options, Shop(1).method.options]
)
@pytest.mark.parametrize(("options", "error", "text"), WRONG, ids=[w[2] for w in WRONG])
def test_a_wrong_option_is_refused_where_it_is_written(
    use: Callable[..., object], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        use(**options)
    assert text in str(caught.value)


@pytest.mark.parametrize("wrong", [3, "function"])
def test_only_what_can_be_called_is_a_task(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"@task needs a function, not {wrong!r}"):
        task(wrong)


# -- cost -----------------------------------------------------------------------------------------

DECORATE = """
import sys, threading, unirun

@unirun.task
def plain(x): return x

class Shop:
    @unirun.task
    @staticmethod
    def method(x): return x

engines = ("asyncio", "concurrent.futures", "logging", "multiprocessing", "selectors", "socket")
def loaded():
    return [n for n in sys.modules if n in engines or n.startswith("unirun.backends")]
assert plain(3) == Shop.method(3) == 3
assert not loaded(), loaded()

@unirun.task(kind="cpu", timeout=30, killable=True)
def hinted(x): return x
plain.options(kind="io")

assert hinted(3) == 3
assert "unirun._executor" not in sys.modules
assert not [n for n in loaded() if n.startswith("unirun.backends") or n == "asyncio"], loaded()
assert threading.active_count() == 1
"""


def test_decorating_imports_no_engine_and_starts_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DECORATE],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
