"""The manager in a process of its own: its life, what it keeps its hands off, and its end."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from parties import PATIENCE, ProcessParty, ThreadParty, process_parties, wait_until
from places import FAMILIES

from unirun import Executor, _connect, _manager_process
from unirun._errors import ConfigError, ManagerLost
from unirun._manager_process import ManagerProcess
from unirun.sync import make_shared

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")


@pytest.fixture
def manager() -> Iterator[ManagerProcess]:
    manager = ManagerProcess()
    yield manager
    manager.close()


def directory_of(manager: Any) -> Path:
    assert isinstance(manager.address, str)
    return Path(manager.address).parent


def is_gone(process: psutil.Process | int) -> bool:
    """Also as a zombie: those have no descriptor, no memory and no effect any more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def put(q: Any, item: Any) -> None:
    q.put(item)


# -- what it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_its_objects_are_used_by_the_owner_and_by_others(family: str, party: ProcessParty) -> None:
    manager = ManagerProcess(family=family)
    q, condition = make_shared(manager, "Queue"), make_shared(manager, "Condition")
    assert type(manager.address) is (tuple if family == "AF_INET" else str)
    party.start(put, q, "from another process").result()
    ThreadParty().start(put, q, "from another thread").result()
    assert q.get_many(5) == ["from another process", "from another thread"]
    with condition:
        assert condition.wait(0.01) is False
    assert not manager.is_home
    assert manager.pid not in (os.getpid(), party.pid)
    assert f"process {manager.pid}" in repr(manager)
    manager.close()
    assert "closed" in repr(manager)


def test_what_a_constructor_raises_it_raises_here(manager: ManagerProcess) -> None:
    with pytest.raises(ValueError, match="initial value"):
        make_shared(manager, "Semaphore", -1)
    with pytest.raises(ValueError, match="parties"):
        make_shared(manager, "Barrier", 0)
    with pytest.raises(TypeError):
        manager.create("no such kind")
    assert make_shared(manager, "Semaphore", 1).acquire()


def test_a_request_may_be_made_by_its_own_method(manager: ManagerProcess) -> None:
    event = make_shared(manager, "Event")
    assert manager.request("set", event._object_id, (), None) == ("ok", None)
    assert event.is_set()


def test_it_leads_a_session_of_its_own(manager: ManagerProcess) -> None:
    assert os.getsid(manager.pid) == os.getpgid(manager.pid) == manager.pid


def test_it_is_deaf_to_what_the_terminal_sends(manager: ManagerProcess) -> None:
    event = make_shared(manager, "Event")
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(manager.pid, number)
    event.set()  # served after those were delivered, or not at all
    assert event.is_set()


@needs_proc
def test_it_keeps_nothing_open_of_what_its_owner_has(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        manager = ManagerProcess()
        table = Path(f"/proc/{manager.pid}/fd")
        theirs = {int(entry.name): str(entry.readlink()) for entry in table.iterdir()}
    assert theirs[1] == theirs[2] == os.devnull
    own = ("socket:", "anon_inode:", "/memfd:unirun", os.devnull)
    assert [to for to in theirs.values() if not to.startswith(own)] == []
    assert Path(f"/proc/{manager.pid}/cwd").readlink() == Path("/")
    manager.close()


@needs_proc
def test_the_key_can_be_seen_neither_in_its_arguments_nor_in_its_environment() -> None:
    key = b"0123456789abcdef" * 2
    manager = ManagerProcess(key=key)
    seen = b"".join(Path(f"/proc/{manager.pid}/{each}").read_bytes() for each in PUBLIC)
    assert b"_manager_server" in seen
    assert not {key, key.hex().encode()} & {seen[i : i + len(key)] for i in range(len(seen))}
    assert key.hex().encode() not in seen
    manager.close()


PUBLIC = ("cmdline", "environ")


def test_neither_it_nor_its_start_writes_anything_to_the_owners_streams() -> None:
    program = """
from unirun._manager_process import ManagerProcess
from unirun.sync import make_shared
manager = ManagerProcess()
make_shared(manager, "Queue").put(1)
"""
    ended = run(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_it_starts_in_whatever_directory_and_environment_its_owner_is(tmp_path: Path) -> None:
    """A module of the program is not taken for one of the standard library."""
    for name in ("queue", "socket", "threading", "unirun", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    program = """
import os, sys
from unirun._manager_process import ManagerProcess
os.chdir(sys.argv[1])
sys.path.insert(0, "")
os.environ.update(PYTHONPATH=sys.argv[1], PYTHONSTARTUP="nowhere", PYTHONHOME="nowhere")
print(ManagerProcess().create("Queue") > 0)
"""
    ended = run(program, str(tmp_path))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


def test_one_that_cannot_be_started_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = "unirun._manager_process.python_executable"
    monkeypatch.setattr(start, lambda: "/bin/false")
    with pytest.raises(ManagerLost, match=r"could not be started .*; use manager='thread'"):
        ManagerProcess()
    monkeypatch.setattr(start, lambda: "/nowhere/python")
    with pytest.raises(ManagerLost, match=r"could not be started .*; use manager='thread'"):
        ManagerProcess()


def test_one_that_has_no_place_for_its_socket_says_so_or_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 90)))
    with pytest.raises(ManagerLost, match=r"No such file.*; set TMPDIR"):
        ManagerProcess(family="AF_UNIX")
    manager = ManagerProcess()
    assert manager.address[0] == "127.0.0.1"
    manager.close()


# -- its end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "drop"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_of_it(how: str, family: str, party: ProcessParty) -> None:
    q = make_shared(manager := ManagerProcess(family=family), "Queue")
    process, address = psutil.Process(manager.pid), manager.address
    party.start(put, q, "item").result()
    if how == "close":
        manager.close()
        manager.close()
    del manager
    if how == "drop":
        gc.collect()
        assert q.get() == "item", "a handle keeps it"
    del q
    wait_until(lambda: gc.collect() >= 0 and not process.is_running())  # not even a zombie
    wait_until(lambda: isinstance(address, tuple) or not Path(address).parent.exists())
    wait_until(lambda: address not in _connect.keys)


def test_many_one_after_the_other_leave_no_descriptor() -> None:
    def use_one() -> int:
        manager = ManagerProcess()
        ThreadParty().start(put, make_shared(manager, "Queue"), "item").result()
        manager.close()
        gc.collect()
        return psutil.Process().num_fds()

    use_one()
    before = use_one()
    for _ in range(5):
        after = use_one()
    assert after <= before


def run(program: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        env={**os.environ, **env},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


ENDS = {
    "returns": "",
    "exits": "os._exit(3)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "is killed and has a fork": """
if os.fork() == 0:
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL)""",
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("where", ["process", "executor"])
def test_it_ends_with_its_owner_and_leaves_nothing(how: str, where: str, short_path: Path) -> None:
    """However that ends."""
    make = {
        "process": "q = make_shared(ManagerProcess(), 'Queue')",
        "executor": "q = Executor(backend='process', manager='process').Queue()",
    }
    program = f"""
import os, signal
from unirun import Executor
from unirun._manager_process import ManagerProcess
from unirun.sync import make_shared
{make[where]}
q.put(1)
print(q._home.pid, flush=True)
{ENDS[how]}
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(short_path)},
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        manager = int(owner.stdout.readline())  # which may be gone by now
        try:
            owner.wait(PATIENCE)
            wait_until(lambda: is_gone(manager))
            wait_until(lambda: list(short_path.iterdir()) == [])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(owner.pid, signal.SIGKILL)


def test_one_that_stands_still_does_not_hold_up_its_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_manager_process, "END_PATIENCE", 0.05)
    manager = ManagerProcess()
    process = psutil.Process(manager.pid)
    os.kill(manager.pid, signal.SIGSTOP)
    manager.close()
    assert not process.is_running()
    assert not directory_of(manager).exists()


def test_a_condition_in_it_is_waited_for_and_notified(manager: ManagerProcess) -> None:
    condition, waits = make_shared(manager, "Condition"), threading.Event()
    waiter = ThreadParty().start(say_and_wait, condition, waits)
    assert waits.wait(PATIENCE)
    with condition:  # so it waits
        condition.notify()
    assert waiter.result() is True


def say_and_wait(condition: Any, waits: threading.Event) -> Any:
    with condition:
        waits.set()
        return condition.wait(PATIENCE)


def test_a_fork_of_the_owner_uses_it_and_does_not_end_it(manager: ManagerProcess) -> None:
    q = make_shared(manager, "Queue")
    with process_parties(1, "fork") as [party]:
        party.start(close_and_put, manager_index := hold(manager), q).result()
        assert manager_index == 0
    assert q.get_many(5) == ["before", "after", "in a new one of the fork's"]
    assert not manager.has_ended(0.0)


_held: list[ManagerProcess] = []


def hold(manager: ManagerProcess) -> int:
    """For a fork that is made later: what is there is inherited."""
    _held[:] = [manager]
    return 0


def close_and_put(index: int, q: Any) -> None:
    q.put("before")
    manager = q._home if q._home is not None else _held[index]
    manager.close()
    q.put("after")
    own = ManagerProcess()
    inner = make_shared(own, "Queue")
    inner.put("in a new one of the fork's")
    q.put(inner.get())
    own.close()


# -- the setting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_the_setting_says_where_shared_objects_live(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("UNIRUN_MANAGER", "process")
    options = {"manager": "process"} if how == "argument" else {}
    with Executor(1, backend="process", **options) as executor:
        q = executor.Queue()
        assert isinstance(q._home, ManagerProcess)
        executor.submit(put, q, "item").result(PATIENCE)
        assert q.get(timeout=PATIENCE) == "item"
        del q


def test_another_place_is_an_error_where_it_is_written() -> None:
    with pytest.raises(ConfigError, match="unknown place of the manager 'moon'"):
        Executor(manager="moon")
