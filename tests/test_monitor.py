"""A program that may be watched: who is served, what is answered, and that nothing stays behind."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from unirun import ConfigError, Executor, _monitor, _monitor_door, enable_monitor
from unirun._monitor import disable_monitor
from unirun.cli import programs
from unirun.cli.programs import Ended, Silent, ask
from unirun.cli.status import WrongUse

PATIENCE = 20.0
ME = os.getpid()

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel tells who asks on Linux"
)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where sockets are during a test: of no other program."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / f"unirun_top_{os.geteuid()}"


@pytest.fixture
def watched(place: Path) -> Iterator[Path]:
    """This process may be watched; the path of its socket."""
    enable_monitor()
    yield place / _monitor_door.name_of(ME)
    disable_monitor()


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        _monitor_door._at(str(path), sock.connect)
        yield sock


def said(path: Path, data: bytes) -> bytes:
    """All that it answers to that."""
    with connected(path) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := sock.recv(1 << 16):
                received += part
        return received


def wait_until(seen: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_only_the_user_can_enter(watched: Path) -> None:
    assert stat.S_IMODE(watched.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(watched.stat().st_mode) == 0o600
    assert [path.name for path in watched.parent.iterdir()] == [watched.name]


def test_it_answers_once_it_may_and_not_any_more(place: Path) -> None:
    with pytest.raises(Ended):
        ask(ME, "snapshot")
    enable_monitor()
    enable_monitor()
    assert ask(ME, "snapshot")["pid"] == ME
    assert _monitor_door.found() == [ME]
    disable_monitor()
    disable_monitor()
    assert list(place.iterdir()) == []
    with pytest.raises(Ended):
        ask(ME, "snapshot")
    assert _monitor_door.found() == []


def test_the_setting_and_the_variable_enable_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIRUN_MONITOR", "1")
    try:
        with Executor(1, backend="thread", name="mine"):
            assert "mine" in [each["name"] for each in ask(ME, "snapshot")["executors"]]
    finally:
        disable_monitor()


def test_off_it_imports_nothing() -> None:
    program = (
        "import sys, unirun\n"
        "with unirun.Executor(1, backend='thread') as ex: ex.submit(abs, 1).result()\n"
        "print([name for name in sys.modules if 'monitor' in name or name.endswith('_snapshot')])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UNIRUN_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("how", ["open to others", "a file", "a link", "of another user"])
def test_a_directory_that_others_can_enter_is_refused(place: Path, how: str) -> None:
    if how == "open to others":
        place.mkdir(0o755)
    elif how == "a file":
        place.write_text("")
    elif how == "a link":
        (place.parent / "elsewhere").mkdir(0o700)
        place.symlink_to(place.parent / "elsewhere")
    else:
        if os.geteuid():
            pytest.skip("only root can give files away")
        place.mkdir(0o700)
        os.chown(place, 12345, 12345)
    with pytest.raises(ConfigError, match="not a directory that only this user can enter"):
        enable_monitor()
    with pytest.raises(WrongUse, match="only this user can enter"):
        programs.the_one(None)
    assert not _monitor._service.is_on


def test_what_prevents_it_is_said_and_does_not_prevent_work(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write_text("")
    monkeypatch.setenv("UNIRUN_MONITOR", "yes")
    with pytest.warns(RuntimeWarning, match="the setting monitor has no effect: .*only this user"):
        executor = Executor(1, backend="thread")
    with executor:
        assert executor.submit(abs, -1).result(PATIENCE) == 1


AS_NOBODY = """
import os, socket, sys
os.setgid(12345); os.setuid(12345)
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(10)
    try:
        sock.connect(sys.argv[1])
        sock.sendall(b'{"ask": "snapshot"}\\n')
        print(len(sock.recv(1000)))
    except OSError as exc:
        print(type(exc).__name__)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("opened", [False, True])
def test_other_users_are_not_served(short_path: Path, opened: bool) -> None:
    """By the modes; and, were these changed, by what the kernel says of who asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(short_path))
        enable_monitor()
        try:
            path = short_path / f"unirun_top_{os.geteuid()}" / _monitor_door.name_of(ME)
            if opened:
                short_path.chmod(0o755)
                path.parent.chmod(0o755)
                path.chmod(0o666)
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", AS_NOBODY, str(path)],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            refused = {"0", "ConnectionResetError", "BrokenPipeError"}
            assert done.stdout.strip() in (refused if opened else {"PermissionError"}), done.stderr
        finally:
            disable_monitor()


GARBAGE = [
    b"\n",
    b"",
    b"snapshot\n",
    b"{}\n",
    b"[]\n",
    b'{"ask": 3}\n',
    b'{"ask": ["snapshot"]}\n',
    b'{"ask": "exec"}\n',
    b'{"ask": null, "call": 1}\n',
    b"\x80\x04\x95cposix\nsystem\n",
    b"\xff\xfe\x00\n",
    b"[" * 4000 + b"\n",
    b'{"ask": "snapshot"' + b" " * 5000 + b"}\n",
    b"x" * 100_000,
    b'{"ask": NaN}\n',
]


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:20]))
def test_garbage_is_answered_or_not_but_never_obeyed(watched: Path, data: bytes) -> None:
    answer = said(watched, data)
    if answer:
        assert "that is no request" in json.loads(answer)["error"]
    assert ask(ME, "snapshot")["pid"] == ME


@pytest.mark.parametrize("call", [None, "1", 1.0, True, [1], {}, -1, 1 << 70])
def test_a_call_that_is_none_is_not_killed(watched: Path, call: Any) -> None:
    assert ask(ME, "kill", call=call) == {"killed": False, "text": "it has ended already"}


def test_slow_clients_hold_up_nobody(watched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_monitor, "PATIENCE", 0.5)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(watched)) for _ in range(_monitor.MOST_CLIENTS - 1)]
        silent[0].sendall(b'{"ask": ')
        assert ask(ME, "snapshot")["pid"] == ME
        for each in silent:  # they are sent away
            assert b"no request" in each.recv(1000) or True
    wait_until(lambda: not _monitor._clients._threads)


def test_too_many_clients_are_sent_away(watched: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(_monitor.MOST_CLIENTS):
            stack.enter_context(connected(watched))
        wait_until(lambda: len(_monitor._clients._threads) == _monitor.MOST_CLIENTS)
        with pytest.raises(WrongUse, match="serves others already"):
            ask(ME, "snapshot")
    wait_until(lambda: not _monitor._clients._threads)
    assert ask(ME, "snapshot")["pid"] == ME


def test_disabling_ends_those_that_are_served(place: Path) -> None:
    enable_monitor()
    with connected(place / _monitor_door.name_of(ME)) as sock:
        wait_until(lambda: len(_monitor._clients._threads) == 1)
        disable_monitor()
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(100):
                pass
    assert not [each for each in threading.enumerate() if "monitor" in each.name]


def test_sockets_of_the_dead_are_swept_and_others_left(place: Path) -> None:
    place.mkdir(0o700)
    space = _monitor_door.name_of(ME).partition("-")[0]
    dead = place / f"{space}-999999999.sock"
    alive = place / "1234-5.sock"
    young = place / f"{space}-17.sock.new"
    made = []
    for path in (dead, alive, young):
        sock = socket.socket(socket.AF_UNIX)
        _monitor_door._at(str(path), sock.bind)
        made.append(sock)
    made[1].listen(1)
    made[0].close()
    (place / "other").write_text("not ours")
    assert _monitor_door.found() == []
    assert sorted(each.name for each in place.iterdir()) == sorted(
        [alive.name, young.name, "other"]
    )
    for sock in made:
        sock.close()


def test_a_path_may_be_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    enable_monitor()
    try:
        assert ask(ME, "snapshot")["pid"] == ME
    finally:
        disable_monitor()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork with threads, from Python 3.12 on
def test_a_forked_child_does_not_answer_for_its_parent(watched: Path) -> None:
    listener = _monitor._service._listener
    assert listener is not None
    number = listener.fileno()
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            os.write(tell, repr((_is_open(number), _monitor._service.is_on)).encode())
            disable_monitor()  # the socket is the parent's
            status = 0
        os._exit(status)
    os.close(tell)
    said = os.read(told, 1000)
    os.close(told)
    assert os.waitpid(child, 0)[1] == 0
    assert said == b"(False, False)"
    assert watched.exists()
    assert ask(ME, "snapshot")["pid"] == ME


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- what is told ---------------------------------------------------------------------------------


def waits_for(event: Any) -> None:
    event.wait()


def test_calls_of_a_thread_are_told_and_not_killed(watched: Path) -> None:
    event = threading.Event()
    with Executor(1, backend="thread", name="threads") as executor:
        runs, waits = (executor.submit(waits_for, event) for _ in range(2))
        wait_until(runs.running)
        (backend,) = executor_of("threads")["backends"]
        first, second = backend["calls"]
        assert (first["state"], second["state"]) == ("running", "waiting")
        assert first["name"].endswith("waits_for")
        refused = ask(ME, "kill", call=first["id"])
        assert refused["killed"] is False
        assert "threads cannot be killed" in refused["text"]
        assert ask(ME, "kill", call=second["id"]) == {
            "killed": True,
            "text": "it was cancelled before it began",
        }
        assert waits.cancelled()
        event.set()
        runs.result(PATIENCE)


def executor_of(name: str) -> dict[str, Any]:
    return next(each for each in ask(ME, "snapshot")["executors"] if each["name"] == name)


def sleeps() -> None:
    time.sleep(PATIENCE)


def test_a_call_in_a_process_is_killed_and_counted(watched: Path) -> None:
    with Executor(1, backend="process", name="processes", grace=0.1) as executor:
        future = executor.submit(sleeps)
        wait_until(future.running)
        (call,) = executor_of("processes")["backends"][0]["calls"]
        assert ask(ME, "kill", call=call["id"]) == {"killed": True, "text": "it was killed"}
        assert future.cancelled()
        assert executor_of("processes")["backends"][0]["counts"]["killed"] == 1
        assert ask(ME, "kill", call=call["id"])["text"] == "it has ended already"


def test_of_very_many_calls_a_part_is_told_and_the_number_of_all(watched: Path) -> None:
    event = threading.Event()
    with Executor(1, backend="thread", name="many") as executor:
        futures = [executor.submit(waits_for, event) for _ in range(10_000)]
        wait_until(futures[0].running)
        (backend,) = executor_of("many")["backends"]
        assert len(backend["calls"]) == 500
        assert backend["calls"][0]["state"] == "running"
        assert backend["waiting"] == 9999
        for future in futures:
            future.cancel()
        event.set()


def test_long_and_strange_names_arrive(watched: Path) -> None:
    event = threading.Event()
    with Executor(1, backend="thread", name="é\x1b[2J\ud800" + "x" * 1000) as executor:
        future = executor.options(name="中文\n" + "y" * 1000).submit(waits_for, event)
        wait_until(future.running)
        (told,) = [
            each for each in ask(ME, "snapshot")["executors"] if each["name"].startswith("é")
        ]
        assert len(told["name"]) == 200
        assert told["backends"][0]["calls"][0]["name"].startswith("中文\n")
        event.set()
        future.result(PATIENCE)


def test_a_dump_is_given(watched: Path) -> None:
    assert f"dump of process {ME}" in ask(ME, "dump")["text"]


# -- the client -----------------------------------------------------------------------------------


def test_who_answers_in_the_name_of_another_is_not_believed(place: Path) -> None:
    other = psutil.Process().ppid()
    place.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        _monitor_door._at(str(place / _monitor_door.name_of(other)), sock.bind)
        sock.listen(1)
        with pytest.raises(WrongUse, match=f"somebody else answers in the name of process {other}"):
            ask(other, "snapshot")


@pytest.mark.parametrize("answer", [b"no json\n", b'{"error": "bad"}\n', b""])
def test_an_answer_that_is_none_is_an_error(place: Path, answer: bytes) -> None:
    place.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        _monitor_door._at(str(place / _monitor_door.name_of(ME)), sock.bind)
        sock.listen(1)

        def serve() -> None:
            with sock.accept()[0] as client:
                client.recv(1000)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(WrongUse):
            ask(ME, "snapshot")
        thread.join(PATIENCE)


def test_who_says_nothing_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PATIENCE", 0.2)
    place.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        _monitor_door._at(str(place / _monitor_door.name_of(ME)), sock.bind)
        sock.listen(1)
        with pytest.raises(Silent):
            ask(ME, "snapshot")
