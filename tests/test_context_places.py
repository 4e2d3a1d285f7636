"""Which context variables travel to other processes, and what is said of those that do not."""

import asyncio
import decimal
import gc
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
from contexts import PATIENCE, Holder, apart, bind, of_places, request, tracer, user, whose

import unirun
from unirun import ContextWarning, Executor, _variables
from unirun.backends.process import carried
from unirun.backends.process.backend import ProcessBackend

APPS = Path(__file__).parent / "apps"


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(1, backend="process") as executor:
        executor.submit(abs, 1).result(PATIENCE)
        yield executor


# -- where they are --------------------------------------------------------------------------------


@apart
def test_variables_of_classes_objects_and_dicts_are_found(executor: Executor) -> None:
    Holder.variable.set(1)
    tracer.current.set(2)
    bind("key", 3)
    assert executor.submit(of_places).result(PATIENCE) == (1, 2, {"key": 3})


def made_here() -> tuple[ContextVar[Any], Callable[[], Any]]:
    variable: ContextVar[Any] = ContextVar("local", default="default")
    return variable, lambda: variable.get()


@apart
def test_one_that_no_module_has_comes_with_what_refers_to_it(executor: Executor) -> None:
    variable, read = made_here()
    assert executor.submit(read).result(PATIENCE) == "default"
    variable.set(1)
    assert executor.submit(read).result(PATIENCE) == 1
    assert executor.submit(read_there, variable, read).result(PATIENCE) == (1, 1)
    other, read_other = made_here()
    other.set(2)
    assert executor.submit(read_there, other, read).result(PATIENCE) == (2, 1)
    assert executor.submit(read_other).result(PATIENCE) == 2


def read_there(variable: ContextVar[Any], read: Callable[[], Any]) -> Any:
    """As seen by two calls that this one submits."""
    return unirun.submit(get, variable).result(PATIENCE), unirun.submit(read).result(PATIENCE)


def get(variable: ContextVar[Any]) -> Any:
    return variable.get()


@apart
def test_a_variable_comes_back_as_itself(executor: Executor) -> None:
    variable, _ = made_here()
    assert executor.submit(same, variable).result(PATIENCE) is variable
    assert executor.submit(same, user).result(PATIENCE) is user


def same(variable: Any) -> Any:
    return variable


def test_a_script_needs_nothing_special() -> None:
    command = [sys.executable, "-P", str(APPS / "variables.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["ann", "ann", "nobody"]


# -- their values ----------------------------------------------------------------------------------


@apart
def test_a_value_is_what_it_was_at_submit(executor: Executor) -> None:
    value = {"n": 1}
    user.set(value)
    before = executor.submit(whose)
    value["n"] = 2
    after = executor.submit(whose)
    assert before.result(PATIENCE)[0] == {"n": 1}
    assert after.result(PATIENCE)[0] == {"n": 2}


class Peculiar:
    """Its equality and its hash are code that must not run."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    def __hash__(self) -> int:
        raise AssertionError("hashed")


def number_of() -> int:
    found: int = user.get().number
    return found


@apart
def test_values_are_never_compared(executor: Executor) -> None:
    user.set(Peculiar(1))
    first = executor.submit(number_of)
    user.set(Peculiar(2))
    found = executor.map(lambda _: number_of(), range(30), buffersize=3)
    assert (first.result(PATIENCE), [*found]) == (1, [2] * 30)


@apart
def test_values_that_are_equal_are_told_apart(executor: Executor) -> None:
    values = [True, 1, 1.0, True, -0.0, 0, 0.0, False, "", b"", None]
    futures = []
    for value in values:
        user.set(value)
        futures.append(executor.submit(kind_and_text))
    found = [future.result(PATIENCE) for future in futures]
    assert found == [(type(value).__name__, repr(value)) for value in values]


def kind_and_text() -> Any:
    value = user.get()
    return type(value).__name__, repr(value)


@apart
def test_shared_objects_and_executors_may_be_in_them() -> None:
    with Executor(2, backend="process") as executor:
        go = executor.Event()
        queue = executor.Queue()
        user.set(queue)
        future = executor.submit(put_in_user, go)
        user.set(executor)
        assert executor.submit(submit_by_user).result(PATIENCE) == 4
        go.set()
        future.result(PATIENCE)
        assert queue.get(timeout=PATIENCE) == "there"


@apart
def test_a_shared_object_lives_as_long_as_a_call_has_it_in_a_variable() -> None:
    with Executor(1, backend="process") as executor:
        go = executor.Event()
        before = executor.submit(go.wait, PATIENCE)
        user.set(executor.Queue())
        handle = weakref.ref(user.get())
        future = executor.submit(size_of_user)  # it waits for the only worker
        user.set(None)
        gc.collect()
        assert handle() is not None  # though nobody here has it any more
        go.set()
        assert before.result(PATIENCE)
        assert future.result(PATIENCE) == 0


def size_of_user() -> int:
    size: int = user.get().qsize()
    return size


def put_in_user(go: Any) -> None:
    go.wait(PATIENCE)
    user.get().put("there")


def submit_by_user() -> Any:
    return user.get().submit(abs, -4).result(PATIENCE)


# -- forms of their own ----------------------------------------------------------------------------


def third() -> str:
    return str(decimal.Decimal(1) / 3)


@apart
def test_what_decimal_computes_with_comes_along(executor: Executor) -> None:
    with decimal.localcontext() as context:
        context.prec = 5
        context.traps[decimal.Inexact] = False
        assert executor.submit(third).result(PATIENCE) == "0.33333"
        context.traps[decimal.Inexact] = True
        with pytest.raises(decimal.Inexact):
            executor.submit(third).result(PATIENCE)
    assert len(executor.submit(third).result(PATIENCE)) == 30


@apart
def test_decimal_as_it_is_at_the_start_is_not_sent() -> None:
    decimal.getcontext()
    assert _variables.travelling() == (None, [])


@apart
def test_what_numpy_does_about_errors_comes_along(executor: Executor) -> None:
    numpy = pytest.importorskip("numpy")
    if not hasattr(numpy, "__version__") or int(numpy.__version__.split(".")[0]) < 2:
        pytest.skip("before numpy 2 that is no context variable")
    with numpy.errstate(over="raise"):
        assert executor.submit(about_overflow).result(PATIENCE) == "raise"
    assert executor.submit(about_overflow).result(PATIENCE) == "warn"


def about_overflow() -> str:
    import numpy

    return str(numpy.geterr()["over"])


# -- what stays behind -----------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[warnings.WarningMessage]]:
    """The warnings; nothing was told before."""
    monkeypatch.setattr(_variables, "_told", {})
    monkeypatch.setattr(_variables, "_refused", {})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield found


@apart
def test_what_cannot_be_pickled_is_named_once_and_the_rest_goes(
    executor: Executor, told: Any
) -> None:
    user.set(threading.Lock())
    request.set(7)
    for _ in range(3):
        assert executor.submit(whose).result(PATIENCE) == ("nobody", 7)
    user.set({1: threading.Lock()})
    assert executor.submit(whose).result(PATIENCE) == ("nobody", 7)
    assert [each.category for each in told] == [ContextWarning]
    text = str(told[0].message)
    assert text.startswith("context variable 'user' does not reach worker processes: ")
    assert "its value cannot be pickled: TypeError: cannot pickle '_thread.lock' object; " in text
    assert "hand over what is needed as an argument" in text
    assert told[0].filename == __file__


@apart
def test_a_value_of_another_kind_goes_afterwards(executor: Executor, told: Any) -> None:
    user.set([threading.Lock()])
    assert executor.submit(whose).result(PATIENCE)[0] == "nobody"
    user.set([1])
    assert executor.submit(whose).result(PATIENCE)[0] == [1]
    assert len(told) == 1


@apart
def test_an_event_loop_stays_where_it_is_without_a_word(executor: Executor, told: Any) -> None:
    """Libraries keep theirs in variables: Jupyter does, and nobody who uses it knows."""
    loop = asyncio.new_event_loop()
    try:
        user.set(loop)
        for _ in range(2):
            assert executor.submit(whose).result(PATIENCE)[0] == "nobody"
        assert told == []
        user.set([loop])  # not the same: somebody has put this together
        assert executor.submit(whose).result(PATIENCE)[0] == "nobody"
        assert [each.category for each in told] == [ContextWarning]
    finally:
        loop.close()


class Unreadable:
    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise ValueError("not here")


@apart
def test_what_cannot_be_unpickled_there_is_told_and_harms_nobody(told: Any) -> None:
    user.set(Unreadable())
    request.set(7)
    with Executor(1, backend="process") as executor:
        for _ in range(2):
            assert executor.submit(whose).result(PATIENCE) == ("nobody", 7)
    assert len(told) == 1
    text = str(told[0].message)
    assert text.startswith("context variable 'user' is not set in worker processes: ValueError: ")


@apart
def test_as_an_error_the_warning_is_the_outcome_of_the_call(executor: Executor, told: Any) -> None:
    user.set(threading.Lock())
    warnings.simplefilter("error", ContextWarning)
    views = executor, executor.options(timeout=PATIENCE)
    futures = [view.submit(whose) for view in views]
    for future in futures:
        with pytest.raises(ContextWarning, match="'user' does not reach"):
            future.result(PATIENCE)
    user.set("ann")
    assert executor.submit(fails_inside).result(PATIENCE) == "ContextWarning"


def fails_inside() -> str:
    user.set(threading.Lock())
    warnings.simplefilter("error")
    return type(unirun.submit(whose).exception(PATIENCE)).__name__


@apart
def test_none_are_sent_where_that_was_asked_for(executor: Executor, told: Any) -> None:
    user.set("ann")
    request.set(threading.Lock())
    with unirun.config(context=False):
        assert executor.submit(whose).result(PATIENCE) == ("nobody", "no request")
    assert executor.options(context=False).submit(whose).result(PATIENCE)[0] == "nobody"
    with Executor(1, backend="thread") as threads:
        assert threads.options(context=False).submit(whose).result(PATIENCE)[0] == "ann"
    assert told == []


# -- what it costs who sets none -------------------------------------------------------------------


def test_who_sets_none_sends_nothing_and_is_not_looked_at(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_at(*_: object) -> Any:
        raise AssertionError("looked at")

    def submit() -> Any:
        return executor.submit(whose), executor.options(timeout=PATIENCE).submit(whose)

    monkeypatch.setattr(carried, "carry", looked_at)
    futures = copy_context().run(in_an_empty_context, submit)
    assert [future.result(PATIENCE)[0] for future in futures] == ["nobody"] * 2
    assert isinstance(futures[0]._backend, ProcessBackend)
    assert [future._profile.carried for future in futures] == [None, None]


def in_an_empty_context(do: Callable[[], Any]) -> Any:
    from contextvars import Context

    return Context().run(do)


@apart
def test_a_worker_imports_nothing_for_it_before_some_come() -> None:
    with Executor(1, backend="process") as executor:
        loaded = executor.submit(eval, "{*__import__('sys').modules}").result(PATIENCE)
        assert "unirun.backends.process.about" in loaded
        assert not {name for name in loaded if name.startswith(("unirun._var", "unirun._own"))}


def test_a_program_that_makes_variables_without_end_fills_no_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_variables, "_made", {})
    monkeypatch.setattr(_variables, "_places", {})
    for number in range(_variables._MOST + 10):
        name = f"n{number}"
        assert _variables.arrived(("", f"far-{number}", name, b"")).name == name
    assert len(_variables._made) <= _variables._MOST
    assert len(_variables._places) <= _variables._MOST
