"""A debugger in a call that runs inline: in the caller's thread, with the caller above it."""

import bdb
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unirun import Executor, _debuggers

PROGRAM = """\
import unirun


@unirun.task(kind="cpu")
def divide(a, b):
    if STOP:
        breakpoint()
    share = a / b
    return share


@unirun.task(kind="cpu", timeout=0.2)
def limited(a, b):
    breakpoint()
    return a / b


def main(b):
    mine = "a variable of the caller"
    share = divide.submit(6, b).result()
    print("share", share)


def under_a_limit():
    print("share", limited.submit(6, 2).result())
"""


# From 3.13 on a breakpoint stops in its own line, before in the next.
NEXT = ("n",) if sys.version_info >= (3, 13) else ()


def debug(
    directory: Path,
    program: str,
    *commands: str,
    options: tuple[str, ...] = (),
    **environment: str,
) -> tuple[int, str]:
    """What is said when these commands are typed; `program` runs after PROGRAM."""
    (directory / "app.py").write_text(PROGRAM + program)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    ended = subprocess.run(
        [sys.executable, *options, "app.py"],
        cwd=directory,
        env={**kept, "UNIRUN_BACKEND": "inline", "HOME": str(directory), **environment},
        input="".join(f"{command}\n" for command in commands),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=40,
        check=False,
    )
    return ended.returncode, ended.stdout


def shown(said: str) -> list[str]:
    """The places that were shown as the current one, of the program: "(8)divide()"."""
    places = [line.rpartition("app.py")[2] for line in said.splitlines() if "> /" in line]
    return places[1:] if NEXT and places[0] == "(7)divide()" else places


def test_a_breakpoint_shows_the_task_and_steps_in_it_and_finds_the_caller_above(tmp_path):
    commands = (*NEXT, "p a, b", "n", "p share", "w", *["up"] * 10, "p mine", "c")
    code, said = debug(tmp_path, "STOP = True\nmain(2)\n", *commands)

    assert code == 0, said
    assert "(Pdb) (6, 2)\n" in said
    assert "(Pdb) 3.0\n" in said
    assert shown(said)[:2] == ["(8)divide()", "(9)divide()"]
    assert "(20)main()" in shown(said), said
    assert "(Pdb) 'a variable of the caller'\n" in said
    assert "share 3.0" in said


def test_the_stack_names_the_line_of_the_submit(tmp_path):
    _, said = debug(tmp_path, "STOP = True\nmain(2)\n", *NEXT, "w", "c")

    stack = said.rpartition("(Pdb)   ")[2]
    lines = ("main(2)", "share = divide.submit(6, b).result()", "share = a / b")
    places = [stack.index(f"-> {line}") for line in lines]
    assert places == sorted(places), said


def test_after_an_error_the_frames_of_the_task_and_of_its_caller_are_there(tmp_path):
    program = """
STOP = False
try:
    main(0)
except ZeroDivisionError:
    __import__("pdb").post_mortem()
"""
    code, said = debug(tmp_path, program, "p a, b", *["up"] * 3, "p mine", "q")

    assert code == 0
    assert "(Pdb) (6, 0)\n" in said
    assert shown(said)[0] == "(8)divide()"
    assert shown(said)[-1] == "(20)main()"
    assert "(Pdb) 'a variable of the caller'\n" in said


def test_a_program_that_is_run_by_pdb_stops_at_a_breakpoint_in_a_task(tmp_path):
    commands = ("b 8", "c", "p a, b", "n", "p share", "c", "q")
    program = "STOP = False\nmain(2)\n"
    code, said = debug(tmp_path, program, *commands, options=("-m", "pdb"))

    assert code == 0, said
    assert "(Pdb) (6, 2)\n" in said
    assert "(Pdb) 3.0\n" in said
    assert shown(said)[1:3] == ["(8)divide()", "(9)divide()"]
    assert "share 3.0" in said


def test_our_own_breakpoint_shows_the_caller_right_above_and_steps_back_to_it(tmp_path):
    commands = (*NEXT, "up", "p mine", "down", "r", "s", "p b", "n", "p share", "c")
    program = "STOP = True\nmain(2)\n"
    code, said = debug(tmp_path, program, *commands, PYTHONBREAKPOINT="unirun.set_trace")

    assert code == 0, said
    assert "'a variable of the caller'" in said
    assert shown(said)[:3] == ["(8)divide()", "(20)main()", "(8)divide()"], said
    assert shown(said)[3] == "(9)divide()->3.0"
    assert shown(said)[-1].startswith("(21)main()"), said
    assert "(Pdb) 3.0\n" in said


def test_our_own_breakpoint_steps_from_a_submit_into_the_task(tmp_path):
    program = "STOP = False\nfuture = breakpoint() or divide.submit(6, 2)\nprint(future.result())\n"
    commands = ("s", "s", "p a, b", "c")
    code, said = debug(tmp_path, program, *commands, PYTHONBREAKPOINT="unirun.set_trace")

    assert code == 0, said
    assert "(Pdb) (6, 2)\n" in said, said
    assert "unirun/" not in said


def test_quit_in_a_task_ends_the_program_and_not_only_the_call(tmp_path):
    program = "STOP = True\ndivide.submit(6, 2)\nprint('went', 'on')\n"
    code, said = debug(tmp_path, program, "q")

    assert code == 1
    assert "\nbdb.BdbQuit\n" in said
    assert "went on" not in said


def test_a_time_limit_does_not_end_what_somebody_looks_at(tmp_path):
    commands = ("p a, b", "!import time; time.sleep(0.5)", "n", "c")
    code, said = debug(tmp_path, "under_a_limit()\n", *commands)

    assert (code, "share 3.0" in said) == (0, True), said


def test_quit_in_a_call_with_a_time_limit_ends_the_program_too(tmp_path):
    code, said = debug(tmp_path, "under_a_limit()\nprint('went', 'on')\n", "q")

    assert code == 1
    assert "bdb.BdbQuit" in said
    assert "went on" not in said


# -- who is a debugger ----------------------------------------------------------------------------


class Quiet(bdb.Bdb):
    def __init__(self):
        super().__init__()
        self.reset()

    def user_line(self, frame):
        """Go on, and go on tracing."""


@pytest.fixture
def trace():
    before = sys.gettrace()
    yield sys.settrace
    sys.settrace(before)


def test_a_tracing_debugger_is_known_and_coverage_is_none(trace):
    assert not _debuggers.is_tracing()
    trace(lambda *_: None)
    assert not _debuggers.is_tracing()
    trace(Quiet().trace_dispatch)
    assert _debuggers.is_tracing()


def test_while_a_debugger_traces_a_call_with_a_time_limit_runs_in_its_callers_thread(trace):
    with Executor(backend="inline") as executor:
        limited = executor.options(timeout=30)
        aside = limited.submit(threading.get_ident).result()
        trace(Quiet().trace_dispatch)
        here = limited.submit(threading.get_ident).result()

    assert aside != threading.get_ident()
    assert here == threading.get_ident()


# -- docs/debugging.md ----------------------------------------------------------------------------


def test_the_page_shows_what_the_program_on_it_prints(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "debugging.md").read_text()
    ((program, shown),) = re.findall(
        r"```py\n(.*?)```\n\n```console\n\$ .*? python app.py\n(.*?)```", page, re.DOTALL
    )
    (tmp_path / "app.py").write_text(program)
    ended = subprocess.run(
        [sys.executable, "-u", "app.py"],
        cwd=tmp_path,
        env={**os.environ, "UNIRUN_BACKEND": "inline"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=40,
        check=True,
    )

    assert ended.stdout.replace(f"{tmp_path}{os.sep}", "") == shown
