"""Scenarios 21 to 32: what cannot be pickled ends its own call, and what can arrives as it was.

The contract has more of it, for every backend: `unirun/testing/_payloads.py`, `_failures.py`.
"""

import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import process.conftest as fixtures
import psutil
import pytest
import reliability_bodies_worlds as bodies
from process import watch
from process.line import PATIENCE

import unirun
from unirun import RemoteError, SerializationError

pool, method = fixtures.pool, fixtures.method
Pool = Callable[..., unirun.Executor]


def error_of(future: "unirun.Future[Any]") -> BaseException:
    error = future.exception(PATIENCE)
    assert error is not None
    return error


@pytest.mark.scenario(21, "one error on that future, in five pools in a row")
@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_an_argument_that_refuses_to_be_pickled_ends_its_own_call(
    pool: Pool, kind: type[BaseException]
) -> None:
    for _ in range(5):
        executor = pool(1)
        bad = executor.submit(bodies.same, bodies.RaisesPickled(kind))
        good = executor.submit(bodies.double, 2)
        assert isinstance(error_of(bad), pickle.PicklingError)
        assert good.result(PATIENCE) == 4
        executor.shutdown()


@pytest.mark.scenario(22, "all 200 end rightly, with one worker")
def test_a_hundred_that_cannot_be_pickled_take_no_place_from_others(pool: Pool) -> None:
    executor = pool(1)
    bad = [executor.submit(bodies.same, bodies.RaisesPickled(TypeError)) for _ in range(100)]
    good = [executor.submit(bodies.double, number) for number in range(100)]
    assert [future.result(PATIENCE) for future in good] == [2 * n for n in range(100)]
    assert all(isinstance(error_of(future), SerializationError) for future in bad)


@pytest.mark.scenario(23, "it arrives as its own type, or names it; the worker lives on")
@pytest.mark.scenario("exception with a keyword-only constructor", "arrives as its own type")
@pytest.mark.parametrize("body", [bodies.demand, bodies.be_strict])
def test_an_exception_that_cannot_be_rebuilt_is_of_its_class_and_harms_nobody(
    pool: Pool, method: str, body: Callable[[], None]
) -> None:
    executor = pool(1, method)
    before = executor.submit(bodies.pid).result(PATIENCE)
    error = error_of(executor.submit(body))
    kind = bodies.Demanding if body is bodies.demand else bodies.Strict
    assert isinstance(error, kind)
    assert getattr(error, "code", 7) == 7
    assert executor.submit(bodies.pid).result(PATIENCE) == before


@pytest.mark.scenario(24, "the very type arrives, with its traceback")
def test_a_frozen_exception_arrives_as_itself(pool: Pool) -> None:
    error = error_of(pool(1).submit(bodies.freeze))
    assert type(error) is bodies.Frozen
    assert error.where == "in the ice"
    assert traceback.extract_tb(error.__traceback__)[-1].name == "freeze"


@pytest.mark.scenario(25, "an error that says what it was; the worker lives on")
@pytest.mark.scenario("unpicklable result, exception, traceback with frames", "its own call fails")
@pytest.mark.parametrize(
    "body",
    [bodies.hold_a_lock, bodies.hold_a_file, bodies.hold_a_frame, bodies.hold_its_traceback],
)
def test_an_exception_that_holds_what_cannot_travel_arrives_without_it(
    pool: Pool, body: Callable[[], None]
) -> None:
    executor = pool(1)
    before = executor.submit(bodies.pid).result(PATIENCE)
    error = error_of(executor.submit(body))
    assert isinstance(error, bodies.Holding)
    assert isinstance(error, RemoteError)
    assert "holds something" in str(error)
    assert traceback.extract_tb(error.__traceback__)[-1].name == body.__name__
    assert executor.submit(bodies.pid).result(PATIENCE) == before


@pytest.mark.scenario(26, "it is the result, and is not raised")
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, bodies.Own])
def test_an_exception_that_is_returned_is_a_result(pool: Pool, kind: type[BaseException]) -> None:
    future = pool(1).submit(bodies.make, kind, "mine")
    value = future.result(PATIENCE)
    assert future.exception(0) is None
    assert (type(value), value.args) == (kind, ("mine",))


@pytest.mark.scenario(27, "each reaches the caller, and the next call works in the same worker")
@pytest.mark.parametrize("kind", [bodies.Own, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_whatever_a_task_raises_reaches_the_caller(
    pool: Pool, method: str, kind: type[BaseException]
) -> None:
    executor = pool(1, method)
    before = executor.submit(bodies.pid).result(PATIENCE)
    error = error_of(executor.submit(bodies.raise_this, kind, "on purpose"))
    assert (type(error), error.args) == (kind, ("on purpose",))
    assert executor.submit(bodies.pid).result(PATIENCE) == before


INTERACTIVE = """
import unirun
executor = unirun.Executor(1, backend="process")
run = lambda *call: executor.submit(*call).result(20)
def factorial(n): return 1 if n < 2 else n * factorial(n - 1)

assert run(factorial, 5) == 120
def make_adder(n):
    def add(x): return x + n
    return add

assert [run(make_adder(n), 1) for n in range(3)] == [1, 2, 3]
assert run(lambda: [factorial(n) for n in range(4)]) == [1, 1, 2, 6]
def answer(): return "old"

assert run(answer) == "old"
def answer(): return "new"

assert run(answer) == "new"
LIMIT = 1
def limited(): return LIMIT

assert run(limited) == 1
LIMIT = 2
assert run(limited) == 2
class Point:
    def __init__(self, x): self.x = x
    def moved(self): return Point(self.x + 1)

assert run(Point(1).moved).x == 2
executor.shutdown()
print("fine")
"""


@pytest.mark.scenario(28, "they run with the newest definition, typed in line by line")
def test_what_is_defined_interactively_runs_as_it_is_now() -> None:
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=INTERACTIVE,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr
    assert "Error" not in done.stderr


# 29: see test_programs.py


@pytest.mark.scenario(30, "a method of a shared object, of a proxy, or of an object is a task")
def test_a_bound_method_of_a_shared_object_is_a_task(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    queue = executor.Queue()
    executor.submit(queue.put, "by a task").result(PATIENCE)
    assert queue.get(timeout=PATIENCE) == "by a task"
    queue.put("for a task")
    assert executor.submit(queue.get).result(PATIENCE) == "for a task"


PROXIES = """
import multiprocessing, unirun

if __name__ == "__main__":
    with multiprocessing.Manager() as manager, unirun.Executor(1, backend="process") as executor:
        queue, entries = manager.Queue(), manager.list()
        executor.submit(queue.put, "by a task").result(20)
        executor.submit(entries.append, 1).result(20)
        print(queue.get(timeout=20), list(entries))
"""


@pytest.mark.scenario(30, "a method of a proxy of multiprocessing is a task")
def test_a_bound_method_of_a_proxy_is_a_task(tmp_path: Path) -> None:
    done = watch.run(tmp_path, PROXIES)
    assert (done.stdout, done.stderr) == ("by a task [1]\n", "")


# As tblib does: it is not installed here, and what it adds is a reducer for tracebacks.
LIKE_TBLIB = """
import copyreg, sys, traceback, types
import unirun
import reliability_bodies_worlds as bodies

def rebuild(*frames):
    return None

if sys.argv[1] == "with":
    copyreg.pickle(types.TracebackType, lambda tb: (rebuild, (tb.tb_lineno,)))
with unirun.Executor(1, backend="process") as executor:
    try:
        executor.submit(bodies.fail_below).result(20)
    except ValueError as exc:
        assert type(exc.__cause__) is KeyError and exc.__cause__.args == ("missing",)
        assert exc.__context__ is exc.__cause__ and exc.__suppress_context__
        print(traceback.format_exc())
"""


@pytest.mark.scenario(31, "cause and remote frames are shown, tracebacks pickled or not")
@pytest.mark.parametrize("reducer", ["with", "without"])
def test_cause_and_traceback_of_an_exception_arrive(tmp_path: Path, reducer: str) -> None:
    done = watch.run(tmp_path, LIKE_TBLIB, reducer, env=watch.with_tests_on_path())
    assert done.stderr == ""
    shown = done.stdout
    assert shown.index("KeyError: 'missing'") < shown.index("direct cause")
    assert shown.index("direct cause") < shown.index("ValueError: above")
    assert shown.count("in fail_below") == 2
    assert '{}["missing"]' in shown  # the line of the source


@pytest.mark.scenario("frame of 0 bytes", "nothing at all goes there and back")
def test_nothing_at_all_goes_there_and_back(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    for nothing in (b"", "", (), [], {}, None, bytearray(), memoryview(b"").tobytes()):
        assert executor.submit(bodies.same, nothing).result(PATIENCE) == nothing
    assert list(executor.map(bodies.same, [b""] * 100)) == [b""] * 100
    assert list(executor.map(bodies.same, [])) == []


@pytest.mark.scenario(32, "an array of more than 2 GiB arrives whole; the worker lives on")
@pytest.mark.scenario("frame of more than 2 GiB", "arrives whole")
def test_more_than_two_gib_go_to_a_worker(
    pool: Pool, record_property: Callable[[str, object], None]
) -> None:
    if psutil.virtual_memory().available < 8 << 30:
        pytest.skip("needs 8 GiB of free memory")
    size = (2 << 30) + 5
    executor = pool(1)
    before = executor.submit(bodies.pid).result(PATIENCE)
    zeros = np.zeros(size, np.uint8)  # pages that nobody has written to cost nothing
    zeros[-1] = 7
    assert executor.submit(bodies.last_of, zeros).result(50) == (size, 7)
    assert executor.submit(bodies.pid).result(PATIENCE) == before
    record_property("figure", f"{size} bytes")
