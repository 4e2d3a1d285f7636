"""docs/faq.md has an entry for each error class, and shows the text that is really raised."""

import json
import operator
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unirun
from unirun import Executor
from unirun._far_setup import unmet, why_not

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
ENTRIES = dict(ENTRY.findall(PAGE))
CLASSES = {
    name: found
    for name in unirun.__all__
    if isinstance(found := getattr(unirun, name), type) and issubclass(found, unirun.UnirunError)
}
ON_CLUSTERS = {"BackendLost"}
"""Raised by test_dask.py and test_ray.py, for want of a cluster here."""
provocations: dict[str, Callable[[Executor], object]] = {}


def provokes(name: str) -> Callable[[Callable[[Executor], object]], None]:
    def register(provocation: Callable[[Executor], object]) -> None:
        provocations[name] = provocation

    return register


# -- how to get each of them -----------------------------------------------------------------------


@provokes("ConfigError")
def _(processes: Executor) -> None:
    Executor(max_workers=0)


@provokes("UnknownBackend")
def _(processes: Executor) -> None:
    Executor(backend="proces")


@provokes("UnknownOption")
def _(processes: Executor) -> None:
    processes.options(timeuot=5)


@provokes("BackendUnavailable")
def _(processes: Executor) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "their_backend.py").write_text("import their_engine")
        sys.path.insert(0, directory)
        try:
            Executor(backend="their_backend:Theirs").submit(abs, -1)
        finally:
            sys.path.remove(directory)


@provokes("UnsupportedByBackend")
def _(processes: Executor) -> None:
    unirun.task(backend="thread", killable=True)


@provokes("NotKillable")
def _(processes: Executor) -> None:
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait(30)

    with Executor(1, backend="thread") as executor:
        future = executor.submit(wait)
        assert begun.wait(30)
        try:
            future.kill()
        finally:
            end.set()


@provokes("ExecutorShutdown")
def _(processes: Executor) -> None:
    with Executor(1, backend="thread") as executor:
        pass
    executor.submit(abs, -1)


@provokes("SerializationError")
def _(processes: Executor) -> None:
    processes.submit(len, {"jobs": [threading.Lock()]}).result(30)


class OneWay:
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


@provokes("DeserializationError")
def _(processes: Executor) -> None:
    processes.submit(repr, OneWay()).result(30)


@provokes("TaskKilled")
def _(processes: Executor) -> None:
    future = processes.options(name="reports.yearly").submit(time.sleep, 60)
    while not future.running():
        time.sleep(0.001)
    future.kill()
    future.result()


@provokes("TaskCancelled")
def _(processes: Executor) -> None:
    begun = threading.Event()

    def work() -> None:
        begun.set()
        task = unirun.current_task()
        while True:
            task.check()
            time.sleep(0.001)

    with Executor(1, backend="thread") as executor:
        future = executor.options(name="reports.yearly").submit(work)
        assert begun.wait(30)
        future.cancel()
        future.result(30)


@provokes("TaskTimeout")
def _(processes: Executor) -> None:
    processes.options(name="reports.yearly", timeout=0.1).submit(time.sleep, 60).result()


@provokes("QueueTimeout")
def _(processes: Executor) -> None:
    late = processes.options(name="reports.yearly", deadline=time.monotonic())
    late.submit(time.sleep, 60).result()


@provokes("ScopeTimeout")
def _(processes: Executor) -> None:
    with processes.scope(timeout=0.1, name="reports") as scope:
        scope.submit(time.sleep, 60)


@provokes("TaskMemoryExceeded")
def _(processes: Executor) -> None:
    processes.options(name="reports.yearly", memory="1MiB").submit(time.sleep, 60).result(30)


@provokes("WorkerCrashed")
def _(processes: Executor) -> None:
    processes.options(name="reports.yearly").submit(os._exit, 3).result(30)


@provokes("InitializerFailed")
def _(processes: Executor) -> None:
    with Executor(1, backend="thread", initializer=int, initargs=("x",)) as executor:
        executor.submit(abs, -1).result()


@provokes("NotReplayable")
def _(processes: Executor) -> None:
    future = processes.submit(abs, -1)
    future.result(30)
    future.replay()


class Stuck(Exception):
    def __str__(self) -> str:
        return f"the lock is {'held' if self.args[0].locked() else 'free'}"


@provokes("RemoteError")
def _(processes: Executor) -> None:
    def fail() -> None:
        raise Stuck(threading.Lock())

    processes.submit(fail).result(30)


@provokes("ManagerLost")
def _(processes: Executor) -> None:
    with Executor(1, backend="process", manager="process") as executor:
        lock = executor.Lock()
        os.kill(lock._home.pid, signal.SIGKILL)
        lock.acquire()


@provokes("LockAbandoned")
def _(processes: Executor) -> None:
    lock = processes.Lock(on_abandoned="raise")

    def die_with(lock: Any) -> None:
        lock.acquire()
        os._exit(1)

    processes.submit(die_with, lock).exception(30)
    lock.acquire()


@provokes("BarrierTooLarge")
def _(processes: Executor) -> None:
    barrier = processes.Barrier(3)
    futures = [processes.submit(barrier.wait) for _ in range(3)]
    raise next(error for future in futures if (error := future.exception(30)))


@provokes("DeadlockError")
def _(processes: Executor) -> None:
    first, second, both = processes.Lock(), processes.Lock(), processes.Barrier(2)

    def acquire(mine: Any, other: Any) -> None:
        with mine:
            both.wait()
            with other:
                pass

    futures = [processes.submit(acquire, *pair) for pair in ((first, second), (second, first))]
    raise next(error for future in futures if (error := future.exception(30)))


@provokes("ResultLost")
def _(processes: Executor) -> None:
    raise unirun.ResultLost("reports.yearly", "pid 4711 on node-7")


@provokes("VersionMismatch")
def _(processes: Executor) -> None:
    told = {"where": "node-7", "mismatch": {"python": ("3.13", "3.12")}}
    raise why_not(json.dumps(told), "dask", b"", 1) or AssertionError


@provokes("NoSuitableWorker")
def _(processes: Executor) -> None:
    why = unmet({"gpu": 1.0}, [{"resources": {"memory": 1.0}}], "dask", 1.0)
    assert why is not None
    raise unirun.NoSuitableWorker(why)


@provokes("QueueFull")
def _(processes: Executor) -> None:
    end = threading.Event()
    with Executor(1, backend="thread", max_pending=1, when_full="raise") as executor:
        executor.submit(end.wait, 30)
        try:
            executor.submit(abs, -1)
        finally:
            end.set()


# -- what the page says ----------------------------------------------------------------------------


def pattern(shown: str) -> str:
    """What a text on the page stands for: `…` is what differs each time."""
    return ".*".join(map(re.escape, shown.split("…")))


def test_each_error_class_has_its_entry() -> None:
    assert sorted(ENTRIES) == sorted(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_entry_names_what_else_the_error_is_and_what_to_do(name: str) -> None:
    if name != "UnirunError":
        assert "**Cause:**" in ENTRIES[name]
        assert "**Do:**" in ENTRIES[name]
        named = set(re.findall(r"`(\w+)`", ENTRIES[name].split("**Cause")[0]))
        others = {base.__name__ for base in CLASSES[name].__mro__[1:]}
        assert named <= others
        assert named or name == "RemoteError" or "queue.Full" in ENTRIES[name]


def test_what_is_raised_is_what_the_page_shows() -> None:
    """All in one, since an executor that replaced its workers looks like one that leaves some."""
    wrong = []
    with Executor(2, backend="process", grace=0.2) as processes:
        for name in sorted(set(CLASSES) - {"UnirunError"} - ON_CLUSTERS):
            (shown,) = re.findall(r"^```text\n(.*?)\n```$", ENTRIES[name], re.DOTALL | re.MULTILINE)
            with pytest.raises(CLASSES[name]) as caught:
                provocations[name](processes)
            if re.fullmatch(pattern(shown), str(caught.value), re.DOTALL) is None:
                wrong.append(f"{name}: {caught.value}")
    assert wrong == []
