"""When the manager is killed, stands still or is busy: nobody hangs, and new objects are well."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import psutil
import pytest
from parties import PATIENCE, ProcessParty, ThreadParty, process_parties, tell, wait_until
from places import FAMILIES, LOST, WAITS, Waiters, wait_for, wait_for_all, waiting_objects

from unirun import Executor, _celled, _leftovers
from unirun._errors import ManagerLost
from unirun._manager import Manager
from unirun._manager_process import ManagerProcess
from unirun.sync import make_shared

APP = Path(__file__).parent / "apps" / "doomed_owner.py"


# -- the manager's own process is killed ----------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_whoever_waits_learns_that_it_was_killed(family: str, party: ProcessParty) -> None:
    """Threads of the owner, of a spawned process and of a forked one, in each kind of wait."""
    manager = ManagerProcess(family=family)
    objects = waiting_objects(manager)
    here = Waiters(objects)
    with process_parties(1, "fork") as [forked]:
        for each in (party, forked):
            each.start(wait_and_tell, objects)
            assert each.result() == "all are about to wait"
        os.kill(manager.pid, signal.SIGKILL)
        assert here.results() == LOST
        assert party.result() == forked.result() == LOST
    for name in WAITS:
        assert wait_for(name, objects[name]) == "ManagerLost", "it does not come back"
    with pytest.raises(ManagerLost):
        objects["lock"].release()
    assert isinstance(manager.address, tuple) or not Path(manager.address).parent.exists()
    manager.close()


def wait_and_tell(objects: dict[str, Any]) -> dict[str, Any]:
    return wait_for_all(objects, lambda: tell("all are about to wait"))


def test_an_executor_goes_on_with_a_new_one() -> None:
    """Tasks that waited fail as such; those that come later, and new objects, are well."""
    with Executor(2, backend="process", manager="process") as executor:
        lock, q = executor.Lock(), executor.Queue()
        lock.acquire()
        waiting = executor.submit(say_and_acquire, q, lock)
        assert q.get(timeout=PATIENCE) == "about to wait"
        os.kill(lock._home.pid, signal.SIGKILL)
        assert isinstance(waiting.exception(PATIENCE), ManagerLost)
        with pytest.raises(ManagerLost):
            lock.locked()
        again, other = executor.Lock(), executor.Condition(executor.Lock())
        assert again.acquire(timeout=PATIENCE)
        assert executor.submit(try_to_acquire, again).result(PATIENCE) is False
        assert executor.submit(wait_briefly, other).result(PATIENCE) is False
        assert again._address == other._address != lock._address
        with pytest.raises(ManagerLost):
            executor.submit(try_to_acquire, lock).result(PATIENCE)
        again.release()
        del lock, q, waiting


def say_and_acquire(q: Any, lock: Any) -> None:
    q.put("about to wait")
    lock.acquire()


def try_to_acquire(lock: Any) -> bool:
    return bool(lock.acquire(False))


def wait_briefly(condition: Any) -> bool:
    with condition:
        return bool(condition.wait(0.01))


def test_of_many_who_notice_only_one_starts_a_new_one() -> None:
    with Executor(1, backend="process", manager="process") as executor:
        first = executor.Event()
        os.kill(first._home.pid, signal.SIGKILL)
        makers = [ThreadParty().start(executor.Event) for _ in range(8)]
        events = [maker.result() for maker in makers]
        assert len({event._address for event in events} - {first._address}) == 1
        assert not any(event.is_set() for event in events)
        del first, events, makers


def test_one_that_is_closed_is_replaced_in_a_thread_too() -> None:
    with Executor(1, backend="process") as executor:
        first = executor.Event()
        first._home.close()
        second = executor.Event()
        assert not second.is_set()
        with pytest.raises(ManagerLost):
            first.is_set()
        del first, second


# -- its owner is killed --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["thread", "process"])
def test_what_the_application_started_learns_of_its_owners_death(
    place: str, tmp_path: Path, short_path: Path
) -> None:
    """Processes that outlive their parent, by each start method and in each kind of wait."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(Listener(str(tmp_path / "listener")))
        temporary = short_path
        owner = subprocess.Popen(
            [sys.executable, str(APP), str(tmp_path / "listener"), place],
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        stack.callback(owner.wait, PATIENCE)
        stack.callback(owner.kill)
        children = [stack.enter_context(listener.accept()) for _ in range(3)]
        for child in children:
            pid = hear(child)
            stack.callback(kill, pid)
            assert hear(child) == "all are about to wait"
        assert list(temporary.glob("unirun-*"))
        owner.kill()
        for child in children:
            found = hear(child)
            if place == "process":  # it may hear of its owner's death as one that held them first
                assert {found.pop("lock"), found.pop("rlock")} <= {"ManagerLost", True}
            assert found.items() <= LOST.items()
            assert len(found) >= len(LOST) - 2
        wait_until(lambda: not list(temporary.glob("unirun-*")))


def hear(child: Any) -> Any:
    assert child.poll(PATIENCE), "it says nothing"
    return child.recv()


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_zygote_removes_the_socket_of_an_owner_that_could_not(
    end: str, short_path: Path
) -> None:
    program = f"""
import os, signal
from unirun import Executor
executor = Executor(1, backend="process", manager="thread")
q = executor.Queue()
executor.submit(q.put, 1).result()
assert os.path.exists(q._address)
{end}
"""
    env = {**os.environ, "TMPDIR": str(short_path)}
    subprocess.run([sys.executable, "-c", program], env=env, cwd=APP.parent.parent.parent)
    wait_until(lambda: not list(short_path.iterdir()))


def test_the_next_manager_removes_what_is_left_of_others(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those that were killed, and not of those that live or are just coming to life."""
    program = """
import os
from unirun._manager import Manager
manager = Manager(family="AF_UNIX")  # one that nobody refers to removes its socket at once
os._exit(0)
"""
    env = {**os.environ, "TMPDIR": str(short_path)}
    command = [sys.executable, "-c", program]
    for _ in range(2):
        subprocess.run(command, env=env, cwd=APP.parent.parent.parent, check=True)
    old, young = short_path.iterdir()
    os.utime(old, (0, 0))
    (short_path / "unirun-something-else").mkdir()
    (short_path / "unirun-1-somebody's").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(short_path))
    other, manager = Manager(family="AF_UNIX"), Manager(family="AF_UNIX")
    assert isinstance(other.address, str)
    living = Path(other.address).parent
    os.utime(living, (0, 0))
    manager.close()
    assert set(short_path.iterdir()) - {young} == {
        *(living, short_path / "unirun-something-else", short_path / "unirun-1-somebody's")
    }
    assert young.exists()
    assert not _leftovers.remove(other.address)
    other.close()


# -- it stands still, or its process is busy ------------------------------------------------------


@pytest.fixture
def stopped() -> Iterator[dict[str, Any]]:
    """Objects of a manager that stands still, to which this thread is connected."""
    manager = ManagerProcess()
    objects = waiting_objects(manager)
    stop(manager)
    yield objects
    os.kill(manager.pid, signal.SIGCONT)
    objects.clear()  # the memory of each goes with the last handle
    manager.close()


def stop(manager: ManagerProcess) -> None:
    os.kill(manager.pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(manager.pid).status() == psutil.STATUS_STOPPED)


def give_up_in_time(objects: dict[str, Any]) -> str:
    """Every wait with a time-out, and everything that does not wait."""
    for timeout in (0.05, 0):
        for name in ("semaphore", "bounded", "lock", "rlock"):
            if name != "rlock" or threading.current_thread() is not threading.main_thread():
                assert objects[name].acquire(timeout=timeout) is False, name
        assert objects["event"].wait(timeout) is False
        for name in ("get", "stack", "heap", "simple"):
            with pytest.raises(queue.Empty):
                objects[name].get(timeout=timeout)
        with pytest.raises(queue.Full):
            objects["put"].put("no room", timeout=timeout)
    assert objects["lock"].acquire(False) is False
    assert objects["semaphore"].acquire(False) is False
    for name in ("get", "stack", "heap", "simple"):
        with pytest.raises(queue.Empty):
            objects[name].get_nowait()
    with pytest.raises(threading.BrokenBarrierError):
        objects["barrier"].wait(0.05)
    return "gave up"


@pytest.mark.parametrize("who", ["the owner", "a thread of it", "another process"])
def test_timeouts_hold_while_it_stands_still(
    who: str, stopped: dict[str, Any], party: ProcessParty
) -> None:
    """Also for those who were never connected."""
    if who == "the owner":
        assert give_up_in_time(stopped) == "gave up"
    elif who == "a thread of it":
        assert ThreadParty().start(give_up_in_time, stopped).result() == "gave up"
    else:
        assert party.start(give_up_in_time, stopped).result() == "gave up"


def test_whoever_comes_while_it_stands_still_waits_for_it_as_long_as_he_said(
    party: ProcessParty,
) -> None:
    """Not only as long as one waits who is not to wait: there is an item."""
    manager = ManagerProcess()
    objects = waiting_objects(manager)
    stop(manager)
    try:
        assert party.start(get_with_time, objects["put"]).result() == "asks"
        time.sleep(0.5)  # how long it stands still: longer than that
    finally:
        os.kill(manager.pid, signal.SIGCONT)
    assert party.result() == "got it"
    objects.clear()
    manager.close()


def get_with_time(items: Any) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_celled, "PATIENCE", 0.1)
        tell("asks")
        items.get(timeout=PATIENCE)
    return "got it"


@pytest.mark.parametrize("family", FAMILIES)
def test_timeouts_hold_while_the_process_of_the_manager_computes(
    family: str, party: ProcessParty
) -> None:
    """The manager is a thread among others there, which do not let go of the interpreter."""
    objects = party.start(serve_all, family).result()
    party.start(compute)
    assert party.result() == "busy"
    try:
        assert ThreadParty().start(give_up_in_time, objects).result() == "gave up"
    finally:
        party.kill()


_kept: list[Any] = []


def serve_all(family: str) -> dict[str, Any]:
    manager = Manager(family=family)
    _kept[:] = [manager, waiting_objects(manager)]
    return dict(_kept[1])


def compute() -> None:
    tell("busy")
    while True:
        sum(range(10**6))  # for a hundredth of a second at a time, nobody else can run


# -- what it has to say ---------------------------------------------------------------------------


def test_the_owner_warns_of_what_a_task_leaves_behind(party: ProcessParty) -> None:
    """The manager's process has nobody who would hear it."""
    with (
        warnings.catch_warnings(record=True) as caught,
        Executor(1, backend="process", manager="process") as executor,
    ):
        warnings.simplefilter("always")
        lock = executor.Lock()
        executor.submit(leave, lock).result(PATIENCE)
        texts = [str(each.message) for each in caught if each.category is ResourceWarning]
        assert [text for text in texts if "leave'" in text and "Lock" in text], texts
        assert lock.acquire(timeout=PATIENCE)
        lock.release()
        del lock


def leave(lock: Any) -> None:
    lock.acquire()


def test_a_manager_made_in_a_task_ends_with_its_worker(party: ProcessParty) -> None:
    with Executor(1, backend="process") as executor:
        manager = psutil.Process(executor.submit(make_one).result(PATIENCE))
        assert manager.is_running()
        executor.kill_workers()
        wait_until(lambda: not manager.is_running())


_made: list[ManagerProcess] = []


def make_one() -> int:
    _made.append(ManagerProcess())
    make_shared(_made[0], "Event").set()
    return _made[0].pid
