"""`unirun top`: a real program, watched from a real terminal; and what its screen is made of."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import environment
from terminal import Terminal

from unirun._terminal import width
from unirun.cli.top_screen import ENTER, LEAVE
from unirun.cli.top_screen import Screen as Keys
from unirun.cli.top_view import SORTS, Row, View, duration, memory, pids_of, rows_of, text_of

PATIENCE = 20.0
WATCHED = Path(__file__).parent / "apps" / "watched.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="on Linux only")


class Program:
    """The one that is watched."""

    def __init__(self, place: Path) -> None:
        self.environment = {**environment(), "XDG_RUNTIME_DIR": str(place), "UNIRUN_MONITOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(WATCHED)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate("\n", PATIENCE)

    def top(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "unirun", "top", *arguments],
            env={**self.environment, "UNIRUN_MONITOR": ""},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    made = Program(tmp_path_factory.mktemp("run"))
    yield made
    made.process.send_signal(signal.SIGCONT)
    made.end()
    assert made.process.wait(PATIENCE) == 0


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.kill()
    made.process.communicate()


class Top:
    """`unirun top` on a terminal."""

    def __init__(self, program: Program, *arguments: str, columns: int = 100) -> None:
        self.terminal = Terminal(columns, 30)
        slave = self.terminal.slave
        self.before = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True).stdout
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "unirun", "top", "--interval=0.2", *arguments],
            env={**program.environment, "UNIRUN_MONITOR": "", "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=self._own_the_terminal,  # this process has no threads of ours
        )

    def _own_the_terminal(self) -> None:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def ended(self) -> int:
        """Its status; the terminal has to be as it was."""
        status = self.process.wait(PATIENCE)
        self.terminal.drained()
        after = subprocess.run(["stty", "-g"], stdin=self.terminal.slave, capture_output=True)
        assert after.stdout == self.before
        assert self.terminal.screen.cursor
        assert not self.terminal.screen.alternate
        return status


@contextlib.contextmanager
def top(program: Program, *arguments: str, columns: int = 100) -> Iterator[Top]:
    made = Top(program, *arguments, columns=columns)
    try:
        with made.terminal:
            yield made
            if made.process.poll() is None:
                made.process.kill()
                made.process.wait()
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.process.wait()


# -- one look -------------------------------------------------------------------------------------


def test_one_look_tells_it_all(program: Program) -> None:
    done = program.top("--once")  # the only program there is
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"process {program.pid}: ")
    for told in (
        "executor 'processes'",
        "process: 2 workers, 2 waiting, 2 running, 0 finished",
        "25% holding",
        "waits for Lock #1",
        "Lock #1: held by pid",
        "thread: 1 workers, 1 waiting, 1 running",
        "__main__.wait_for",
    ):
        assert told in done.stdout, done.stdout


def test_one_look_as_json(program: Program) -> None:
    done = program.top("--once", "--json", str(program.pid))
    told = json.loads(done.stdout)
    names = {each["name"] for each in told["executors"]}
    assert names == {"processes", "threads"}
    assert str(program.pid) in told["processes"]
    assert len(told["processes"]) == 3
    assert all(each["rss"] > 1 << 20 for each in told["processes"].values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["999999999"], "there is no process 999999999"),
        (["1"], "process 1 cannot be watched; start it with UNIRUN_MONITOR=1"),
        (["--json"], "use it with --once"),
        (["--interval", "0"], "0 is too short; 0.1 is the least"),
        (["--interval", "nan"], "is too short"),
        ([], "this is no terminal; use --once"),
    ],
)
def test_wrong_use_says_what_to_do(program: Program, arguments: list[str], told: str) -> None:
    done = program.top(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("unirun: error: ")
    assert told in done.stderr


def test_without_any_program_it_says_how_to_have_one(program: Program, tmp_path: Path) -> None:
    made = Program.__new__(Program)
    made.environment = {**program.environment, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = made.top("--once")
    assert done.returncode == 2
    assert "no program of this user can be watched; start one with UNIRUN_MONITOR=1" in done.stderr


# -- live -----------------------------------------------------------------------------------------


def test_keys_and_sizes(program: Program) -> None:
    """One program and one terminal for all: each start costs."""
    with top(program) as live:
        see = live.terminal.until
        see("executor 'processes'")
        see("Lock #1: held by pid")
        assert live.terminal.screen.alternate
        live.terminal.type("s")
        see("sorted by cpu")
        live.terminal.type("p")
        see("paused, p goes on")
        live.terminal.type("p?")
        see("kill the selected call")
        live.terminal.type("\x1b")
        see("sorted by cpu; q quit")
        live.terminal.type("k")
        see("no call is selected")
        live.terminal.type("d")
        see(f"dump of process {program.pid}")
        live.terminal.type("\x1b[6~")
        live.terminal.type("q")
        see("executor 'processes'")
        for columns, lines in ((40, 8), (20, 4), (5, 2), (1, 1), (130, 40)):
            live.terminal.resize(columns, lines)
            live.process.send_signal(signal.SIGWINCH)
            time.sleep(0.05)
            assert live.process.poll() is None
        see("sorted by cpu; q quit")
        assert all(len(row) <= 130 for row in live.terminal.shown)
        live.terminal.type("\x1b[B" * 3 + "\x1b[Z" + "xyz\x00\x7f")
        live.terminal.type("q")
        assert live.ended() == 0


@pytest.mark.parametrize("how", ["\x03", signal.SIGTERM, "\x1a"])
def test_the_terminal_is_given_back(program: Program, how: Any) -> None:
    with top(program, str(program.pid)) as live:
        live.terminal.until("executor 'processes'")
        if how == "\x1a":
            live.terminal.type(how)
            # Nobody could wake it up: so the system does not stop it, but it has given all back.
            live.terminal.until(lambda: live.terminal.text.count(ENTER) == 2)
            assert live.terminal.text.count(LEAVE) == 1
            live.terminal.until("executor 'processes'")
            how = "\x03"
        if how == "\x03":
            live.terminal.type(how)
            assert live.ended() == 130
        else:
            live.process.send_signal(how)
            assert live.ended() == 128 + how


def select(live: Top, what: str) -> None:
    """With the arrows, a row that says so."""
    for _ in range(30):
        live.terminal.type("\x1b[B")
        live.terminal.drained()
        time.sleep(0.05)
        live.terminal.drained()
        mark = live.terminal.text.rpartition("\x1b[7;1m")[2].partition("\x1b[0m")[0]
        if what in mark:
            return
    raise AssertionError(f"no row with {what!r}: {live.terminal.shown}")


def test_a_call_is_killed_or_said_why_not_and_an_end_is_seen(mortal: Program) -> None:
    with top(mortal) as live:
        see = live.terminal.until
        see("25% holding")
        select(live, "25% holding")
        live.terminal.type("k")
        see("? y/n")
        live.terminal.type("n")
        see("nothing was killed")
        live.terminal.type("k")
        see("? y/n")
        live.terminal.type("y")
        see("it was killed")
        see("1 killed")
        select(live, "wait_for")
        live.terminal.type("ky")
        see("cannot be killed")
        mortal.process.send_signal(signal.SIGSTOP)
        see(f"process {mortal.pid} does not answer; it is stopped")
        mortal.process.send_signal(signal.SIGCONT)
        see(lambda: not any("does not answer" in row for row in live.terminal.screen.shown))
        mortal.process.kill()
        see(f"process {mortal.pid} has ended; q quits")
        live.terminal.type("q")
        assert live.ended() == 0


# -- what it is made of ---------------------------------------------------------------------------


def call(**more: Any) -> dict[str, Any]:
    known = {"id": 1, "name": "work", "state": "running", "age": 3.0, "ran": 2.0, "attempt": 1}
    return {
        **known,
        "worker": "pid 5",
        "left": None,
        "waits": "",
        "parent": None,
        "progress": None,
        **more,
    }


def snapshot(*calls: dict[str, Any], workers: int = 2, **more: Any) -> dict[str, Any]:
    backend = {
        "name": "process",
        "size": workers,
        "counts": {"running": 1, "finished": 2, "killed": 0, "crashed": 3},
        "calls": list(calls),
        "waiting": 0,
        "all": len(calls),
        "workers": [{"name": f"pid {n}", "state": "idle", "pid": n} for n in range(5, 5 + workers)],
        "objects": [],
        "notes": [],
        **more,
    }
    executor = {"name": "e", "id": 7, "closed": False, "held": 0, "backends": [backend]}
    return {"pid": 1, "program": "p", "python": "3", "at": 0.0, "executors": [executor]}


def texts(told: dict[str, Any], sort: str = "age", figures: Any = None) -> list[str]:
    return [text_of(row, 100) for row in rows_of(told, figures or {}, sort)]


def test_counts_that_are_nothing_to_speak_of_are_not_shown() -> None:
    assert (
        texts(snapshot())[1] == "  process: 2 workers, 0 waiting, 1 running, 2 finished, 3 crashed"
    )


@pytest.mark.parametrize(
    ("sort", "first"), [("age", "old"), ("cpu", "hot"), ("memory", "big"), ("name", "able")]
)
def test_rows_are_sorted(sort: str, first: str) -> None:
    told = snapshot(
        call(id=1, name="old", worker="pid 5", ran=9.0),
        call(id=2, name="hot", worker="pid 6"),
        call(id=3, name="big", worker="pid 7"),
        call(id=4, name="able", worker="pid 8"),
        workers=4,
    )
    figures = {5: (1.0, 1), 6: (99.0, 1), 7: (1.0, 1 << 30), 8: (0.0, 0)}
    assert first in texts(told, sort, figures)[2]
    assert set(SORTS) == {"age", "cpu", "memory", "name"}


def test_a_row_says_what_there_is_to_say() -> None:
    told = snapshot(
        call(attempt=2, left=-3.0, waits="for Lock #1", progress=[1, 4, "half\nway"], ran=75.0),
        call(id=2, worker="", state="waiting", ran=None),
        call(id=None, worker="thread 'x'", progress=[None, None, ""]),
        waiting=30,
    )
    lines = texts(told, figures={5: (12.4, 3 << 20)})
    assert "12     3 MiB    1:15     25% half way" in lines[2]
    assert "work #1, attempt 2, -3.0 s left, waits for Lock #1" in text_of(
        list(rows_of(told, {}))[2], 200
    )
    assert any(line.startswith("    waits ") and "work #2" in line for line in lines)
    assert "    ... and 29 more calls that wait" in lines


@pytest.mark.parametrize("columns", [0, 1, 7, 40, 89, 90, 200])
def test_a_row_fits(columns: int) -> None:
    told = snapshot(call(name="中文" * 100 + "\x1b[2J\n", progress=[1, 2, "é" * 300]))
    for row in rows_of(told, {}):
        text = text_of(row, columns)
        assert width(text) <= columns
        assert "\x1b" not in text
        assert "\n" not in text


def test_what_is_selected_stays_so_and_in_sight() -> None:
    view = View()
    rows = [Row((str(n),), key=str(n) if n % 2 else "") for n in range(100)]
    view.choose(rows, 1)
    assert view.selected == "1"
    view.choose(rows, 40)
    assert view.selected == "81"
    lines = list(view.lines(rows, 50, 11))
    assert len(lines) == 11
    assert ("81", "selected") in lines
    more = [Row(("new",), key="new"), *rows]
    assert ("81", "selected") in list(view.lines(more, 50, 11))
    view.choose(rows, 1 << 30)
    assert view.selected == "99"
    view.choose(rows, -(1 << 30))
    assert view.selected == "1"
    view.choose([Row(("x",))], 1)
    assert view.selected == ""
    assert len(list(view.lines(rows, 50, 0))) <= 1


def test_numbers_for_people() -> None:
    assert [memory(n) for n in (0, 1023, 1024, 1 << 20, 3 << 30)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1 MiB",
        "3.0 GiB",
    ]
    assert [duration(n) for n in (None, 0.04, 59.9, 61, 3660, 400_000, -2)] == [
        "",
        "0.0 s",
        "59.9 s",
        "1:01",
        "1:01 h",
        "4 days",
        "-2.0 s",
    ]
    assert pids_of(snapshot()) == {1, 5, 6}


def test_keys_are_told_apart() -> None:
    keys = Keys.__new__(Keys)
    keys._typed = "q\x1b[A\x1b[5~\x1bOBé\x1b[99~x\x1b"
    told = []
    while keys._typed:
        told.append(keys._next_key())
    assert told == ["q", "up", "page up", "down", "é", None, "x", "escape"]
