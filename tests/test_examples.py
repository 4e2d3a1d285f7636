"""The main job runs, on every backend the same, and ends cleanly however it is ended."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
SURVEY = ROOT / "examples" / "survey.py"
MODES = ("inline", "thread", "process", "unforced")
FILES = 60


def environment(mode: str, mark: str = "") -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    forced = {} if mode == "unforced" else {"UNIRUN_BACKEND": mode}
    return {**kept, **forced, "MARK_OF_A_SURVEY": mark}


def survey(mode: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SURVEY, *arguments],
        cwd=directory,
        env=environment(mode),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def without_times(output: str) -> list[str]:
    return [line for line in output.splitlines() if not line.startswith("time:")]


def measured(output: str) -> int:
    found = re.search(r"files measured +([\d,]+) of", output)
    assert found is not None, output
    return int(found[1].replace(",", ""))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    directory = tmp_path_factory.mktemp("elsewhere")
    return {mode: survey(mode, directory, "--files", str(FILES)) for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_a_survey_ends_well_and_says_nothing_on_stderr(whole, mode):
    assert (whole[mode].returncode, whole[mode].stderr) == (0, "")


@pytest.mark.parametrize("mode", MODES)
def test_the_report_is_the_same_on_every_backend(whole, mode):
    report = without_times(whole[mode].stdout)

    assert report == without_times(whole["inline"].stdout)
    assert measured(whole[mode].stdout) == FILES - 1


@pytest.mark.parametrize("mode", MODES)
def test_one_file_after_the_other_gives_the_same_and_both_times_are_told(whole, mode):
    assert "one file after the other: the same" in whole[mode].stdout.splitlines()
    assert len(re.findall(r"^time: \d+\.\d\d s ", whole[mode].stdout, re.MULTILINE)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_the_call_that_hangs_is_given_up_and_nothing_else_is(whole, mode):
    lines = whole[mode].stdout.splitlines()
    start = lines.index("given up: 1")

    assert re.fullmatch(r"  \S+\.py: made to hang, ended after 0\.5 s", lines[start + 1])
    assert lines[start + 2].startswith(f"seal of {FILES - 1} digests")


def test_each_mode_ran_where_it_says(whole):
    told = {mode: re.search(r"on backends (.*)", whole[mode].stdout)[1] for mode in MODES}

    assert told == {
        "inline": "inline and inline",
        "thread": "thread and thread",
        "process": "process and process",
        "unforced": "thread and process",
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_survey_stops_early_on_demand_and_says_so(mode, tmp_path):
    ended = survey(mode, tmp_path, "--stop-after", "20", "--no-progress")

    assert (ended.returncode, ended.stderr) == (0, "")
    # What had begun is completed: at most what a map has on its way, 4 calls for each worker.
    assert 20 <= measured(ended.stdout) < 20 + 4 * 64
    assert "stopped early: this is a partial report" in ended.stdout.splitlines()
    assert "one file after the other" not in ended.stdout


def test_one_worker_is_enough(tmp_path):
    ended = survey("process", tmp_path, "--files", "5", "--workers", "1", "--no-serial")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert measured(ended.stdout) == 4


def test_a_wrong_number_is_refused(tmp_path):
    ended = survey("inline", tmp_path, "--files", "0")

    assert ended.returncode == 2
    assert "argument --files: must be 1 or more, not 0" in ended.stderr


# -- the small ones ------------------------------------------------------------------------------

SMALL = {
    "barrier_server_client.py": """\
the client was told BARRIER SERVER CLIENT
the server has answered 3 times
""",
    "bounded_buffer.py": """\
by hand: 100 items, each once
ready-made: 100 items, each once
""",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SMALL)
def test_a_small_example_does_the_same_on_every_backend(name, mode, tmp_path):
    ended = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        cwd=tmp_path,
        env=environment(mode),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", SMALL[name])


def test_every_example_is_tested():
    # In test_sample.py, test_example_backend.py and integrations/.
    others = {"keywords.py", "thread_per_call.py", "fastapi_app.py"}
    assert {path.name for path in SURVEY.parent.glob("*.py")} == {SURVEY.name, *SMALL, *others}


# -- Ctrl-C --------------------------------------------------------------------------------------


@contextmanager
def survey_on_a_terminal(mode: str, directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A survey of everything whose progress bar can be read, in a session of its own.

    The plain bar: which of the others is drawn depends on what is installed.
    """
    ours, theirs = pty.openpty()
    environ = {**environment(mode, uuid.uuid4().hex), "UNIRUN_PROGRESS": "plain"}
    program = subprocess.Popen(
        [sys.executable, SURVEY],
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield program, ours
    finally:
        program.kill()
        program.communicate(timeout=10)
        os.close(ours)


def wait_for_progress(terminal: int) -> None:
    """Return once some files have been measured: the bar shows a number that is not 0."""
    seen = b""
    while not re.search(rb"measure [1-9]\d*/\d+ ", seen):
        piece = os.read(terminal, 4096)  # the time-out of the test ends this wait
        assert piece, seen
        seen += piece


def rest_of(terminal: int) -> str:
    pieces = []
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # how Linux says that nobody has the other end any more
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK_OF_A_SURVEY") == mark:
                found.append(process)
        except psutil.Error:
            continue  # it has ended, or belongs to somebody else
    return found


def mark_of(program: subprocess.Popen[str]) -> str:
    return psutil.Process(program.pid).environ()["MARK_OF_A_SURVEY"]


@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_gives_a_partial_report_and_leaves_no_process(mode, tmp_path):
    with survey_on_a_terminal(mode, tmp_path) as (program, terminal):
        wait_for_progress(terminal)
        mark = mark_of(program)
        os.killpg(program.pid, signal.SIGINT)
        output, _ = program.communicate(timeout=20)
        left = marked(mark)
        bar = rest_of(terminal)

    assert program.returncode == 130
    assert "Traceback" not in bar
    assert "stopped early: this is a partial report" in output.splitlines()
    assert 1 <= measured(output) < 1000
    assert left == []


@pytest.mark.parametrize("mode", ["process", "unforced"])
def test_a_second_ctrl_c_kills_what_cannot_end_politely(mode, tmp_path):
    with survey_on_a_terminal(mode, tmp_path) as (program, terminal):
        wait_for_progress(terminal)
        mark = mark_of(program)
        for zygote in psutil.Process(program.pid).children():
            for worker in zygote.children():
                worker.suspend()  # it can neither finish its call nor hear of anything
        while not ended(program):
            os.killpg(program.pid, signal.SIGINT)  # the first is noted, another one interrupts
        output, _ = program.communicate(timeout=20)
        left = marked(mark)
        said = rest_of(terminal)

    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said
    assert output == ""
    assert left == []


def ended(program: subprocess.Popen[str]) -> bool:
    try:
        program.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        return False
    return True


# -- make demo -----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_demo_runs_this_survey(tmp_path):
    plan = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "demo", f"ARGS=--files {FILES}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    python, *command = plan.stdout.splitlines()[-1].split()
    assert python == ".venv/bin/python"

    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment("unforced"),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert measured(ended.stdout) == FILES - 1
