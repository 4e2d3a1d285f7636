"""`local()`: each thread of each process has its own values, wherever the object has been."""

import gc
import multiprocessing
import os
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from lingering import linger_for
from parties import PATIENCE, ProcessParty

import unirun
from unirun import Executor, _local
from unirun._manager import Manager
from unirun.sync import make_shared


@pytest.fixture(params=["inline", "thread", "process", "by kind"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    backend = None if request.param == "by kind" else request.param
    with Executor(1, backend=backend) as executor:
        yield executor


@pytest.fixture
def processes() -> Iterator[Executor]:
    with Executor(1, backend="process") as executor:
        yield executor


def in_a_thread(function: Any, *args: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function(*args)))
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def seen(local: Any) -> dict[str, Any]:
    return dict(vars(local))


def add(local: Any, name: str) -> tuple[str, ...]:
    setattr(local, name, object())  # which could not travel
    return tuple(sorted(vars(local)))


def hand_back(local: Any) -> Any:
    return local


# -- as threading.local ---------------------------------------------------------------------------


def test_attributes_are_set_read_deleted_and_listed(executor: Executor) -> None:
    local = executor.local()
    local.x, local._address, local.kind = 1, 2, 3  # whatever their names
    setattr(local, "no identifier", 4)
    assert (local.x, local._address, local.kind) == (1, 2, 3)
    assert vars(local) == local.__dict__ == {"x": 1, "_address": 2, "kind": 3, "no identifier": 4}
    assert {"x", "_address", "kind", "no identifier"} <= set(dir(local))
    del local.x
    assert not hasattr(local, "x")
    with pytest.raises(AttributeError, match="'x'"):
        local.x  # noqa: B018
    with pytest.raises(AttributeError, match="x"):
        del local.x
    local.__dict__.update(y=5)
    assert local.y == 5


def test_its_dict_cannot_be_replaced(executor: Executor) -> None:
    local = executor.local()
    with pytest.raises(AttributeError, match="read-only"):
        local.__dict__ = {}
    with pytest.raises(AttributeError, match="read-only"):
        del local.__dict__


def test_two_locals_have_nothing_in_common(executor: Executor) -> None:
    one, other = executor.local(), executor.local()
    one.x = 1
    assert not hasattr(other, "x")
    assert one != other
    assert len({one, other}) == 2


def test_threads_of_the_program_have_their_own_values(executor: Executor) -> None:
    local = executor.local()
    local.x = 1
    assert in_a_thread(seen, local) == {}
    assert in_a_thread(add, local, "y") == ("y",)
    assert vars(local) == {"x": 1}


def test_values_go_with_their_thread(executor: Executor) -> None:
    local = executor.local()

    class Value:
        pass

    def put() -> weakref.ref[Value]:
        local.value = Value()
        return weakref.ref(local.value)

    value = in_a_thread(put)
    gc.collect()
    assert value() is None


def test_it_takes_no_arguments_and_is_the_local_of_threading_on_threads() -> None:
    with Executor(backend="thread") as executor:
        assert type(executor.local()) is threading.local
        with executor:
            assert type(unirun.local()) is threading.local
        with pytest.raises(TypeError):
            executor.local(1)  # type: ignore[call-arg]


# -- in tasks -------------------------------------------------------------------------------------


def test_a_worker_keeps_its_values_from_task_to_task(executor: Executor) -> None:
    local = executor.local()
    local.mine = 0
    before = ("mine",) if executor._chooser.fixed == "inline" else ()  # it runs in this thread
    assert executor.submit(add, local, "a").result(PATIENCE) == (*sorted({*before, "a"}),)
    assert executor.submit(add, local, "b").result(PATIENCE) == (*sorted({*before, "a", "b"}),)
    assert local.mine == 0
    assert hasattr(local, "a") is bool(before)


def test_it_keeps_its_identity_when_it_comes_home(executor: Executor) -> None:
    local = executor.local()
    local.x = 1
    back = executor.submit(hand_back, [local]).result(PATIENCE)
    assert back == [local]
    assert back[0] is local
    assert back[0].x == 1


def meet(barrier: Any, local: Any, name: str) -> tuple[str, ...]:
    """At the same time as another of them, so on another worker."""
    barrier.wait(PATIENCE)
    names = add(local, name)
    barrier.wait(PATIENCE)
    return names


@pytest.mark.parametrize("backend", ["thread", "process"])
def test_no_two_workers_share_values(backend: str) -> None:
    with Executor(2, backend=backend) as executor:
        local, barrier = executor.local(), executor.Barrier(2)
        futures = [executor.submit(meet, barrier, local, name) for name in "ab"]
        assert [future.result(PATIENCE) for future in futures] == [("a",), ("b",)]


def in_threads_of_a_task(local: Any) -> list[Any]:
    local.x = "of the worker's main thread"
    return [in_a_thread(add, local, name) for name in "ab"] + [tuple(vars(local))]


def test_threads_of_a_task_have_their_own_values(processes: Executor) -> None:
    local = processes.local()
    found = processes.submit(in_threads_of_a_task, local).result(PATIENCE)
    assert found == [("a",), ("b",), ("x",)]


def test_threads_and_processes_use_one_object() -> None:
    with Executor(1) as executor:
        local = executor.local()
        for kind in ("io", "isolated"):
            by_kind = executor.options(kind=kind)
            assert by_kind.submit(add, local, kind).result(PATIENCE) == (kind,)
            assert by_kind.submit(seen_names, local).result(PATIENCE) == [kind]
        assert vars(local) == {}


def seen_names(local: Any) -> list[str]:
    return list(vars(local))


def test_a_new_worker_begins_without_values(processes: Executor) -> None:
    local = processes.local()
    assert processes.submit(add, local, "a").result(PATIENCE) == ("a",)
    processes.kill_workers()
    assert processes.submit(add, local, "b").result(PATIENCE) == ("b",)


def test_it_travels_inside_containers_closures_and_queues(processes: Executor) -> None:
    local, queue = processes.local(), processes.Queue()
    queue.put({"local": local})
    assert processes.submit(lambda: add(local, "a")).result(PATIENCE) == ("a",)
    assert processes.submit(add_to_queued, queue, "b").result(PATIENCE) == ("a", "b")


def add_to_queued(queue: Any, name: str) -> tuple[str, ...]:
    return add(queue.get()["local"], name)


def add_and_tell(local: Any, queue: Any, name: str) -> None:
    queue.put((os.getpid(), add(local, name)))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_it_works_in_a_process_that_the_program_started(method: str, processes: Executor) -> None:
    local, queue = processes.local(), processes.Queue()
    local.x = 1
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=add_and_tell, args=(local, queue, "a"))
    process.start()
    pid, names = queue.get(timeout=PATIENCE)
    process.join(PATIENCE)
    process.close()
    assert pid != os.getpid()
    assert names == (("a", "x") if method == "fork" else ("a",))  # a fork copies all memory
    assert vars(local) == {"x": 1}


def test_its_manager_may_be_a_process_of_its_own() -> None:
    with Executor(1, backend="process", manager="process") as executor:
        local = executor.local()
        local.x = 1
        assert executor.submit(add, local, "a").result(PATIENCE) == ("a",)
        assert executor.submit(hand_back, local).result(PATIENCE) is local
        assert executor.submit(add, executor.local(), "b").result(PATIENCE) == ("b",)
        assert executor.submit(add, local, "c").result(PATIENCE) == ("a", "c")


# -- what is kept, and how long -------------------------------------------------------------------


def kept_by(address: Any) -> int:
    return sum(key[0] == address for key in _local._namespaces)


def meet_local(local: Any) -> tuple[int, Any]:
    """How many namespaces this process has, of that manager, when it knows this local."""
    address = object.__getattribute__(local, "_event")._address
    local.x = 1
    return kept_by(address), address


def test_what_is_left_of_locals_whose_manager_has_ended_is_dropped(party: ProcessParty) -> None:
    first = Manager()
    locals_ = [make_shared(first, "local") for _ in range(3)]
    counts = [party.start(meet_local, local).result()[0] for local in locals_]
    assert counts == [1, 2, 3]
    party.start(int).result()  # the last call is over: nothing there has a handle any more
    first.close()
    second = Manager()
    local = make_shared(second, "local")
    assert party.start(meet_local, local).result()[0] == 1
    assert party.start(kept_by, first.address).result() == 0
    assert make_shared(second, "local") is not local  # looks after this process, too
    del locals_
    make_shared(second, "local")
    assert kept_by(first.address) == 0
    second.close()


def test_what_is_left_of_locals_that_nobody_has_any_more_is_dropped(
    party: ProcessParty, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    linger_for(0.1, monkeypatch)
    local, kept = make_shared(manager, "local"), make_shared(manager, "local")
    assert [party.start(meet_local, each).result()[0] for each in (local, kept)] == [1, 2]
    party.start(int).result()
    assert manager.objects == 2  # that process has no handle on either, but we have
    del local
    end = time.monotonic() + PATIENCE
    while manager.objects > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert party.start(meet_local, make_shared(manager, "local")).result()[0] == 2
    assert party.start(seen, kept).result() == {"x": 1}


def test_the_same_local_is_one_object_as_long_as_somebody_has_it() -> None:
    manager = Manager()
    local = make_shared(manager, "local")
    assert pickle.loads(pickle.dumps(local)) is local
    local.x = 1
    data = pickle.dumps(local)
    del local
    gc.collect()
    assert pickle.loads(data).x == 1  # nobody had it here, but the values were kept
    manager.close()


def test_its_repr_says_what_it_is(processes: Executor) -> None:
    assert repr(processes.local()).startswith("<unirun shared local 0x")
