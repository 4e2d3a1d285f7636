"""The promises of `unirun.testing`, asked of every backend and every start method.

A promise that a backend keeps in its own way is overridden here, in the open.
"""

import asyncio
import contextvars
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest

from unirun import Executor, TaskKilled, TaskTimeout
from unirun.backend import describe
from unirun.testing import PATIENCE, BackendTests, Gate, lacks, needs
from unirun.testing import _subjects as subjects


class TestInline(BackendTests):
    backend = "inline"


class TestThread(BackendTests):
    backend = "thread"


class TestZygote(BackendTests):
    backend = "process"


class TestSpawn(BackendTests):
    backend = "process"
    settings = MappingProxyType({"mp_context": "spawn"})


class TestFork(BackendTests):
    backend = "process"
    settings = MappingProxyType({"mp_context": "fork"})


# -- coroutines -----------------------------------------------------------------------------------


class TestCoroutine(BackendTests):
    """Each function becomes a coroutine function, whose body runs in a thread while it awaits."""

    backend = "coroutine"

    def make_executor(self, max_workers: int | None = 2, **settings: Any) -> Executor:
        return _AsyncExecutor(max_workers, backend=self.backend, **settings)

    @needs("cooperative")
    def test_a_running_call_that_cannot_be_killed_says_what_can(
        self, executor: Executor, gate: Gate
    ) -> None:
        """A coroutine that awaits can be: it is cancelled there."""
        future = executor.submit(subjects.hold, gate.address)
        gate.arrival()
        assert future.kill() is True
        with pytest.raises(TaskKilled):
            future.result(0)

    @lacks("killable")
    def test_a_time_out_abandons_a_body_that_cannot_be_killed(
        self, executor: Executor, gate: Gate
    ) -> None:
        """It is cancelled, as a kill would, so nothing is abandoned."""
        future = executor.options(timeout=0.1).submit(subjects.hold, gate.address)
        error = future.exception(PATIENCE)
        assert isinstance(error, TaskTimeout)
        assert error.abandoned is False
        assert self.stats(executor).abandoned == 0
        assert self.still_works(executor)

    def test_a_traceback_does_not_show_how_we_called_the_task(self, executor: Executor) -> None:
        """Of a coroutine function; the twins made here have a frame of their own."""
        error = executor.submit(subjects.fail_later, "later").exception(PATIENCE)
        assert traceback.extract_tb(error.__traceback__)[0].name == "fail_later"

    def test_calls_may_submit_calls_and_wait_for_them(self, executor: Executor) -> None:
        """As many as there are places: a coroutine that waits keeps its own."""
        with self.make_executor(max_workers=None) as unbounded:
            assert unbounded.submit(subjects.factorial, 6).result(PATIENCE) == 720

    @needs("cooperative")
    def test_a_callback_may_wait_for_another_call(
        self, executor: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It would wait for its own loop: a DeadlockError instead of a standstill."""
        future = executor.submit(subjects.hold, gate.address)
        future.add_done_callback(lambda _: executor.submit(subjects.square, 3).result(PATIENCE))
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        gate.arrival().release()
        assert ended.wait(PATIENCE)
        assert "DeadlockError: the event loop's own thread waits" in caplog.text
        assert self.still_works(executor)


class _AsyncExecutor(Executor):
    def _submit(self, fn: Any, args: Any, kwargs: Any, given: Any, *rest: Any) -> Any:
        return super()._submit(_coroutine_function(fn), args, kwargs, given, *rest)

    def _map(self, fn: Any, *rest: Any) -> Any:
        return super()._map(_coroutine_function(fn), *rest)


def _coroutine_function(fn: Any) -> Any:
    if not callable(fn) or inspect.iscoroutinefunction(fn):
        return fn

    async def call(*args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(body, loop, ended, args, kwargs)).start()
        return await ended

    def body(loop: Any, ended: Any, args: Any, kwargs: Any) -> None:
        try:
            outcome, end = fn(*args, **kwargs), ended.set_result
        except BaseException as exc:
            outcome, end = exc.with_traceback(exc.__traceback__.tb_next), ended.set_exception
        try:
            loop.call_soon_threadsafe(lambda: ended.done() or end(outcome))
        except RuntimeError:
            return  # the loop has ended: nobody waits for it any more

    call.__module__, _, call.__qualname__ = describe(fn).rpartition(".")
    return call


# -- functions that no worker can import ----------------------------------------------------------

HIDDEN = '''
"""A module that lies where no worker looks for it."""
FACTOR = 3

class Box:
    def __init__(self, value): self.value = value
    def times(self, factor): return Box(self.value * factor)

class Trouble(Exception): pass

def triple(x): return _helper(x)

def _helper(x): return x * FACTOR

def unbox(box): return Box(box.value + 1)

def fail(): raise Trouble("hidden")

async def later(x): return _helper(x)
'''


@pytest.fixture
def hidden(tmp_path: Path) -> Iterator[ModuleType]:
    """As pytest's importlib mode or a notebook leave a module: loaded, but not to be found."""
    path = tmp_path / "unirun_hidden_module.py"
    path.write_text(HIDDEN)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_functions_of_a_module_that_no_worker_can_import_travel_by_value(
    hidden: ModuleType, method: str
) -> None:
    with Executor(1, backend="process", mp_context=method) as executor:
        assert executor.submit(hidden.triple, 7).result(PATIENCE) == 21
        assert executor.submit(hidden.later, 7).result(PATIENCE) == 21
        assert list(executor.map(hidden.triple, range(4), timeout=PATIENCE)) == [0, 3, 6, 9]
        assert executor.submit(hidden.unbox, hidden.Box(1)).result(PATIENCE).value == 2
        assert executor.submit(hidden.Box(2).times, 4).result(PATIENCE).value == 8
        with pytest.raises(hidden.Trouble, match="hidden"):
            executor.submit(hidden.fail).result(PATIENCE)


def top_of_this_file(x: int) -> int:
    return x + 1


@pytest.mark.parametrize("method", ["zygote", "spawn", "fork"])
def test_functions_at_the_top_of_a_test_file_can_be_submitted(method: str) -> None:
    with Executor(1, backend="process", mp_context=method) as executor:
        assert executor.submit(top_of_this_file, 1).result(PATIENCE) == 2
        assert list(executor.map(top_of_this_file, range(3), timeout=PATIENCE)) == [1, 2, 3]


# -- the suite itself -----------------------------------------------------------------------------


def test_what_the_suite_submits_is_light() -> None:
    """A worker that runs it imports no pytest."""
    with Executor(1, backend="process", mp_context="spawn") as executor:
        assert executor.submit(subjects.square, 2).result(PATIENCE) == 4
        loaded = executor.submit(eval, "sorted(__import__('sys').modules)").result(PATIENCE)
    assert "unirun.testing._subjects" in loaded
    assert not {"pytest", "_pytest", "unirun.testing._suite", "dataclasses"} & set(loaded)


def test_the_suite_holds_its_promises_one_by_one() -> None:
    """Each is a test of its own that says in a line what it promises; none knows a backend."""
    promises = {name: test for name, test in vars_of(BackendTests) if name.startswith("test_")}
    assert len(promises) >= 80
    assert [name for name, test in promises.items() if not inspect.getdoc(test)] == []
    sources = "".join(inspect.getsource(test) for test in promises.values())
    assert not re.search(r"self\.backend ==|backend=.(thread|process|inline|coroutine)", sources)


def vars_of(cls: type) -> list[tuple[str, Any]]:
    return [pair for base in cls.__mro__ for pair in vars(base).items()]


MINE = """
from unirun.backends.thread import ThreadBackend

class Mine(ThreadBackend):
    name = "mine"
"""
MY_TESTS = """
from unirun.testing import BackendTests

class TestMine(BackendTests):
    backend = "mine"
    settings = {"max_tasks_per_child": None}

    def test_a_result_comes_back(self, executor):
        assert executor.submit(self.broken).result() == 2

    @staticmethod
    def broken():
        return 1
"""


def test_a_backend_from_elsewhere_inherits_the_suite(tmp_path: Path) -> None:
    """With nothing but its name; and its failures are told in detail."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "test_mine.py").write_text(MY_TESTS)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[unirun.backends]\nmine = mine:Mine\n")
    options = ["-q", "-p", "no:cacheprovider", "-k", "result or kill or cancel or time_out"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert re.search(r"\n1 failed, \d\d+ passed, \d+ skipped", done.stdout), done
    assert "assert 1 == 2" in done.stdout
    assert "FAILED test_mine.py::TestMine::test_a_result_comes_back" in done.stdout
