"""The leak check of conftest.py catches each thing it promises to catch, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

# Each test leaves what its name says. They run together in one pytest of their own.
LEAKY = """
import os, signal, subprocess, sys, threading
import pytest

SLEEPER = "import time; time.sleep(60)"
kept = []

def start(code=SLEEPER, **kwargs):
    kept.append(subprocess.Popen([sys.executable, "-c", code], **kwargs))
    return kept[-1]

def test_a_child():
    start()

def test_a_zombie():
    os.waitid(os.P_PID, start("").pid, os.WEXITED | os.WNOWAIT)

def test_an_orphan():
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}])"
    assert start(code, start_new_session=True).wait(20) == 0

def test_a_thread():
    threading.Thread(target=threading.Event().wait, args=(20,), name="left", daemon=True).start()

def test_descriptors():
    kept.extend(os.pipe() + os.pipe())

def test_a_variable(): os.environ["LEFT"] = "here"

@pytest.mark.leaks("to see the mark respected")
def test_marked():
    kept.extend(os.pipe() + os.pipe())

def test_clean():
    assert "LEFT" not in os.environ
    child, event = start(), threading.Event()
    thread = threading.Thread(target=event.wait, args=(20,))
    thread.start()
    child.kill()
    assert child.wait(20) == -signal.SIGKILL
    event.set()

@pytest.fixture(scope="module")
def child_of_the_module():
    return start()

def test_the_last(child_of_the_module):
    pass
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest prints for LEAKY under our conftest."""
    room = tmp_path_factory.mktemp("leaky")
    (room / "conftest.py").write_text(CONFTEST.read_text().replace("GRACE = 5.0", "GRACE = 0.3"))
    (room / "test_leaky.py").write_text(LEAKY)
    ini = f"[pytest]\nmarkers = leaks(reason)\npythonpath = {CONFTEST.parent}\n"
    (room / "pytest.ini").write_text(ini)
    command = [sys.executable, "-m", "pytest", "-rA", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=room, capture_output=True, text=True, timeout=50)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("test", "named"),
    [
        ("a_child", "process "),
        ("a_zombie", "a zombie"),
        ("an_orphan", "process "),
        ("a_thread", "thread left"),
        ("descriptors", "fd "),
        ("a_variable", "variable LEFT='here', was None"),
        ("the_last", "process "),
    ],
)
def test_what_is_left_behind_fails_the_test_and_is_named(
    report: str, test: str, named: str
) -> None:
    assert f"ERROR test_leaky.py::test_{test} - " in report
    _, _, after = report.partition(f"ERROR at teardown of test_{test} ")
    assert named in after.split("ERROR at teardown")[0]


@pytest.mark.parametrize("test", ["marked", "clean"])
def test_what_is_marked_or_clean_passes(report: str, test: str) -> None:
    assert f"PASSED test_leaky.py::test_{test}" in report
    assert f"ERROR test_leaky.py::test_{test}" not in report
