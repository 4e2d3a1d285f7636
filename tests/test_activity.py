"""Activity: a thread or a process of its own, with the interface of `threading.Thread`."""

import asyncio
import copy
import os
import threading
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from activities import KINDS, Counter, begin_and_wait, by_kind, ended, put, run_to_end
from parties import PATIENCE

import unirun
from unirun import Activity, ConfigError, Executor, SerializationError, UnsupportedByBackend


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(1) as executor:
        yield executor
        executor._kill_activities(wait=True)  # of a test that has failed


# -- as threading.Thread --------------------------------------------------------------------------


@by_kind
def test_the_target_gets_its_arguments_shared_objects_too(executor: Executor, kind: str) -> None:
    queue = executor.Queue()
    activity = executor.Activity(put, (queue, 1), {"b": 2}, kind=kind)
    assert run_to_end(activity).exception is None
    pid, args, kwargs = queue.get(timeout=PATIENCE)
    assert (args, kwargs) == ((1,), {"b": 2})
    assert (pid == os.getpid()) is (kind == "io")


@by_kind
def test_a_subclass_runs_with_its_attributes(executor: Executor, kind: str) -> None:
    numbers, totals = executor.Queue(), executor.Queue()
    counter = Counter(numbers, totals, kind=kind)
    counter.total = 100
    counter.start()
    for number in (1, 2, 3, None):
        numbers.put(number)
    assert totals.get(timeout=PATIENCE) == 106
    ended(counter)
    assert counter.total == (106 if kind == "io" else 100)  # a process has a copy


def test_without_a_target_nothing_is_done(executor: Executor) -> None:
    assert run_to_end(executor.Activity()).exception is None


@by_kind
def test_a_coroutine_function_is_run_to_its_end(executor: Executor, kind: str) -> None:
    async def later(event: Any) -> None:
        await asyncio.sleep(0)
        event.set()

    event = executor.Event()
    run_to_end(executor.Activity(later, (event,), kind=kind))
    assert event.is_set()


@by_kind
def test_it_is_alive_from_start_to_end(executor: Executor, kind: str) -> None:
    begun, leave = executor.Event(), executor.Event()
    activity = executor.Activity(begin_and_wait, (begun, leave), kind=kind)
    assert not activity.is_alive()
    activity.start()
    assert activity.is_alive()
    assert begun.wait(PATIENCE)
    activity.join(0.01)
    assert activity.is_alive()
    assert (activity.exitcode, activity.exception) == (None, None)
    leave.set()
    ended(activity)
    activity.join()
    assert activity.exitcode == (None if kind == "io" else 0)


@by_kind
def test_it_can_be_started_only_once(executor: Executor, kind: str) -> None:
    activity = executor.Activity(kind=kind)
    activity.start()
    with pytest.raises(RuntimeError, match="started once"):
        activity.start()
    ended(activity)
    with pytest.raises(RuntimeError, match="started once"):
        activity.start()


def test_it_cannot_be_joined_or_killed_before_its_start(executor: Executor) -> None:
    with pytest.raises(RuntimeError, match="before it is started"):
        executor.Activity().join()
    with pytest.raises(RuntimeError, match="before it is started"):
        executor.Activity().kill()


class Introspective(Activity):
    """Tells what it knows about itself."""

    def __init__(self, queue: Any, **options: Any) -> None:
        super().__init__(**options)
        self.queue = queue

    def run(self) -> None:
        try:
            self.join()
        except RuntimeError as exc:
            told = str(exc)
        try:
            self.start()
        except RuntimeError as exc:
            told += str(exc)
        alive, task = self.is_alive(), unirun.current_task()
        self.queue.put((self.name, self.ident, self.pid, alive, self.exitcode, task, told))


@by_kind
def test_it_knows_itself_from_inside(executor: Executor, kind: str) -> None:
    queue = executor.Queue()
    activity = Introspective(queue, name="egg", kind=kind)
    activity.start()
    name, ident, pid, alive, exitcode, task, told = queue.get(timeout=PATIENCE)
    ended(activity)
    assert (name, alive, exitcode, task) == ("egg", True, None, None)
    assert (ident, pid) == (activity.ident, activity.pid)
    assert (pid is None) is (kind == "io")
    assert "from inside" in told
    assert "started once" in told


@by_kind
def test_names_and_repr_are_those_of_a_thread(executor: Executor, kind: str) -> None:
    leave = executor.Event()
    activity = executor.Activity(leave.wait, (PATIENCE,), kind=kind)
    assert activity.name.startswith("Activity-")
    assert activity.name != executor.Activity().name
    assert (activity.ident, activity.pid, activity.daemon) == (None, None, False)
    activity.name = "egg"
    assert repr(activity) == "<Activity(egg, initial)>"
    activity.start()
    assert activity.pid is None or psutil.pid_exists(activity.pid)
    assert repr(activity) == f"<Activity(egg, started {activity.ident})>"
    activity.name = "spam"
    if kind == "io":
        assert "spam" in {thread.name for thread in threading.enumerate()}
    leave.set()
    ended(activity)
    assert repr(activity) == f"<Activity(spam, stopped {activity.ident})>"


def test_a_subclass_names_itself(executor: Executor) -> None:
    assert Counter(None, None).name.startswith("Counter-")
    assert Counter(None, None, name="egg").name == "egg"


def test_a_subclass_that_does_not_call_init_is_told_so() -> None:
    class Rude(Activity):
        def __init__(self) -> None:
            pass

    with pytest.raises(RuntimeError, match=r"Rude\.__init__\(\) was not called"):
        Rude().start()


def test_daemon_is_set_before_the_start_or_inherited(executor: Executor) -> None:
    activity = executor.Activity(daemon=True)
    assert activity.daemon is True
    activity.daemon = False
    activity.start()
    with pytest.raises(RuntimeError, match="daemon"):
        activity.daemon = True
    ended(activity)
    inherited: list[bool] = []
    thread = threading.Thread(
        target=lambda: inherited.append(executor.Activity().daemon), daemon=True
    )
    thread.start()
    thread.join()
    assert inherited == [True]
    assert executor.submit(lambda: executor.Activity().daemon).result() is False


def test_it_cannot_be_pickled_or_copied(executor: Executor) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        copy.copy(executor.Activity())
    future = executor.options(kind="isolated").submit(print, executor.Activity())
    assert isinstance(future.exception(PATIENCE), SerializationError)


@by_kind
def test_one_that_compares_equal_to_others_is_still_itself(executor: Executor, kind: str) -> None:
    class Equal(Activity):
        def __eq__(self, other: object) -> bool:  # and so it has no hash
            return True

    one, other = Equal(kind=kind), Equal(kind=kind)
    one.start()
    other.start()
    ended(one)
    ended(other)


# -- which of the two it is -----------------------------------------------------------------------


def is_process(activity: Any) -> bool:
    run_to_end(activity)
    return activity.pid is not None


@pytest.mark.parametrize(
    ("kind", "process"),
    [("auto", False), ("io", False), ("native", False), ("cpu", True), ("isolated", True)],
)
def test_its_kind_decides(executor: Executor, kind: str, process: bool) -> None:
    assert is_process(executor.Activity(kind=kind)) is process


def test_the_kind_of_the_target_of_the_class_and_of_the_executor_count() -> None:
    class Isolated(Activity):
        kind = "isolated"

    hinted = unirun.task(kind="isolated")(int)
    with Executor() as executor:
        assert is_process(executor.Activity(hinted))
        assert not is_process(executor.Activity(hinted, kind="io"))
        assert is_process(executor.options(kind="isolated").Activity())
        assert is_process(executor.options(killable=True).Activity())
        assert is_process(Isolated())
        assert not is_process(Isolated(kind="io"))
    with Executor(kind="cpu") as executor:
        assert is_process(executor.Activity())
        with executor:
            assert is_process(Activity())


def test_settings_decide_as_for_calls(here: Any) -> None:
    (here / "unirun.toml").write_text(f'[task."{Counter.__module__}:Counter.run"]\nkind="isolated"')
    with Executor(backend="thread") as executor:
        assert not is_process(executor.Activity(kind="isolated"))
    with Executor(backend="inline") as executor:
        assert not is_process(executor.Activity(kind="isolated"))
    with Executor() as executor, unirun.config(backend="process"):
        assert is_process(executor.Activity(kind="io"))
    with Executor() as executor:
        queue = executor.Queue()
        queue.put(None)
        assert is_process(Counter(queue, executor.Queue()))


def test_a_kind_that_does_not_exist_is_an_error_of_start(executor: Executor) -> None:
    with pytest.raises(ConfigError, match="egg"):
        executor.Activity(kind="egg").start()


def test_what_only_calls_have_is_refused(executor: Executor) -> None:
    for options in ({"timeout": 3}, {"retries": 1}, {"memory": "1GiB"}, {"name": "egg"}):
        with pytest.raises(ConfigError, match="for calls"):
            executor.options(**options).Activity().start()
    with pytest.raises(ConfigError, match="for calls"):
        executor.options(limit=1).Activity().start()


def test_a_wish_that_no_backend_meets_is_refused() -> None:
    with Executor(backend="thread") as executor, pytest.raises(UnsupportedByBackend):
        executor.options(killable=True).Activity().start()


def test_it_takes_no_worker_of_the_executor(executor: Executor) -> None:
    leave = executor.Event()
    for kind in KINDS:
        activities = [executor.Activity(leave.wait, kind=kind) for _ in range(2)]
        for activity in activities:
            activity.start()
        assert executor.options(kind=kind).submit(int).result(PATIENCE) == 0
    leave.set()
    executor.shutdown()
    for each in list(executor._activities.values()):
        ended(each)


@by_kind
def test_the_initializer_of_the_executor_is_called_in_it(kind: str) -> None:
    with Executor(1, initializer=_set_name, initargs=("egg",)) as executor:
        queue = executor.Queue()
        run_to_end(executor.Activity(_put_name, (queue,), kind=kind))
        assert queue.get(timeout=PATIENCE) == "egg"


_here = threading.local()


def _set_name(name: str) -> None:
    _here.name = name


def _put_name(queue: Any) -> None:
    queue.put(_here.name)


# -- in tasks -------------------------------------------------------------------------------------


def start_one(queue: Any, kind: str) -> int | None:
    activity = Activity(put, (queue, "from a task"), kind=kind)
    activity.start()
    activity.join(PATIENCE)
    assert not activity.is_alive()
    return activity.exitcode


@by_kind
@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
def test_it_can_be_started_in_a_task(backend: str, kind: str) -> None:
    with Executor(1, backend=backend) as executor, Executor() as sharing:
        queue = sharing.Queue()
        exitcode = executor.options(kind="io").submit(start_one, queue, kind).result(PATIENCE)
        assert exitcode == (None if kind == "io" and backend != "process" else 0)
        assert queue.get(timeout=PATIENCE)[1:] == (("from a task",), {})


@by_kind
def test_an_activity_starts_another(executor: Executor, kind: str) -> None:
    queue = executor.Queue()
    activity = run_to_end(executor.Activity(start_one, (queue, "isolated"), kind=kind))
    assert activity.exception is None
    assert queue.get(timeout=PATIENCE)[1:] == (("from a task",), {})
