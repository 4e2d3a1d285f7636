"""What a new user may do without thinking of unirun: each program here is written as they would.

None has a `__main__` guard, and each runs as a process of its own in a directory of its own.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import unirun


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def python(directory: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    options = {"capture_output": True, "env": kept, **options}
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, text=True, timeout=50, check=False, **options
    )


def output_of(directory: Path, *arguments: str, **options) -> str:
    ended = python(directory, *arguments, **options)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


# -- names and modules ---------------------------------------------------------------------------


def test_a_package_called_backends_stays_the_users(tmp_path):
    write(
        tmp_path,
        {
            "backends/__init__.py": "NAME = 'mine'\n",
            "backends/rows.py": """
import backends
from unirun import task
class Row:
    pass
@task(kind="cpu")
def load():
    return Row(), backends.NAME
""",
            "main.py": """
import backends, unirun.backends
from backends.rows import Row, load
row, name = load.run()
print(type(row) is Row, name, unirun.backends is backends)
""",
        },
    )

    assert output_of(tmp_path, "main.py") == "True mine False\n"


PLUGIN = """
import unirun
class Thing:
    def __init__(self, value):
        self.value = value
class Refused(Exception):
    pass
def triple(x):
    return Thing(3 * x)
def refuse(x):
    raise Refused(x)
@unirun.task(kind="cpu")
def job(x):
    return triple(x).value
"""
LOADS_PLUGIN = """
import importlib.machinery, importlib.util, sys
from unirun import Executor
spec = importlib.util.spec_from_file_location("plugin", "elsewhere/plugin.txt",
    loader=importlib.machinery.SourceFileLoader("plugin", "elsewhere/plugin.txt"))
plugin = importlib.util.module_from_spec(spec)
if {registered}:
    sys.modules["plugin"] = plugin
spec.loader.exec_module(plugin)
with Executor(backend="process") as executor:
    thing = executor.submit(plugin.triple, 2).result()
    print(type(thing) is plugin.Thing, thing.value)
    print(plugin.job.submit(3).result(), executor.submit(plugin.job, 4).result())
    try:
        executor.submit(plugin.refuse, 5).result()
    except plugin.Refused as exc:
        print(exc.args)
"""


@pytest.mark.parametrize("registered", [True, False])
def test_functions_of_a_module_that_workers_cannot_import_travel_by_value(registered, tmp_path):
    main = LOADS_PLUGIN.replace("{registered}", str(registered))
    write(tmp_path, {"elsewhere/plugin.txt": PLUGIN, "main.py": main})

    assert output_of(tmp_path, "main.py") == "True 6\n9 12\n(5,)\n"


def test_a_module_that_becomes_importable_after_the_workers_started_is_found(tmp_path):
    main = """
import sys
from unirun import Executor
with Executor(1, backend="process") as executor:
    executor.submit(abs, 1).result()
    sys.path.append("late")
    import plugin
    print(executor.submit(plugin.job, 2).result())
"""
    write(tmp_path, {"late/plugin.py": PLUGIN, "main.py": main})

    assert output_of(tmp_path, "main.py") == "6\n"


def test_modules_beside_the_script_are_found_from_any_directory(tmp_path):
    main = """
import os, helper
from unirun import Executor
os.chdir("/")
print(Executor(1, backend="process").submit(helper.less, 5).result())
"""
    write(tmp_path, {"app/helper.py": "def less(x): return x - 1\n", "app/main.py": main})

    assert output_of(tmp_path, "app/main.py") == "4\n"


def test_a_module_run_by_its_name_keeps_its_relative_imports(tmp_path):
    main = """
from . import sibling
from .sibling import twice
from unirun import Executor
def both(x):
    return twice(x), sibling.twice(x)
print(list(Executor(1, backend="process").map(both, [1, 2])))
"""
    sibling = "def twice(x): return 2 * x\n"
    write(tmp_path, {"pkg/__init__.py": "", "pkg/sibling.py": sibling, "pkg/main.py": main})

    assert output_of(tmp_path, "-m", "pkg.main") == "[(2, 2), (4, 4)]\n"


CELL = """
import unirun
class Point:
    def __init__(self, x):
        self.x = x
@unirun.task(kind="cpu")
def moved(point):
    return Point(point.x + STEP)
STEP = 1
point = moved.run(Point(1))
print(type(point) is Point, point.x)
"""


@pytest.mark.parametrize("namespace", ["{}", "{'__name__': '__main__'}", "{'__name__': 'cells'}"])
def test_code_that_is_executed_in_a_bare_namespace_works(namespace, tmp_path):
    assert output_of(tmp_path, "-c", f"exec({CELL!r}, {namespace})") == "True 2\n"


def test_what_was_defined_anew_is_what_runs(tmp_path):
    again = "STEP = 10\nprint(moved.run(Point(1)).x)\n" + CELL.replace("+ STEP", "- STEP")

    assert output_of(tmp_path, "-c", CELL + again) == "True 2\n11\nTrue 0\n"


def test_types_of_the_script_come_back_as_themselves(tmp_path):
    main = """
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple
from unirun import Executor
class Colour(Enum):
    RED = 1
@dataclass
class Paint:
    colour: Colour
class Pair(NamedTuple):
    first: int
class Refused(Exception):
    def __init__(self, what, why):
        super().__init__(what)
        self.why = why
def mix(paint):
    return Paint(paint.colour), Pair(1)
def refuse():
    raise Refused("this", "that")
with Executor(backend="process") as executor:
    paint, pair = executor.submit(mix, Paint(Colour.RED)).result()
    print(paint == Paint(Colour.RED), paint.colour is Colour.RED, isinstance(pair, Pair))
    try:
        executor.submit(refuse).result()
    except Refused as exc:
        print(exc.args, exc.why)
"""
    write(tmp_path, {"main.py": main})

    assert output_of(tmp_path, "main.py") == "True True True\n('this',) that\n"


# -- surroundings --------------------------------------------------------------------------------

PROGRAM = """
import os, unirun
@unirun.task(kind="cpu")
def add(x, queue):
    queue.put(x)
    return x + 1
queue = unirun.Queue()
results = sorted(add.map([1, 2, 3], [queue] * 3))
with open(os.environ.get("OUTPUT", "/dev/stdout"), "a") as file:
    file.write(f"{results} {sorted(queue.get() for _ in results)}\\n")
"""
PRINTS = "[2, 3, 4] [1, 2, 3]\n"


@pytest.mark.parametrize("flags", ["-Werror -Xdev", "-I", "-E", "-OO", "-P", "-Xutf8", "-u"])
def test_every_flag_of_the_interpreter_is_fine(flags, tmp_path):
    write(tmp_path, {"main.py": PROGRAM})

    assert output_of(tmp_path, *flags.split(), "main.py") == PRINTS


@pytest.mark.parametrize("variables", [{}, {"TMPDIR": "/nonexistent", "HOME": "/nonexistent"}])
def test_no_variable_of_the_environment_is_needed(variables, tmp_path):
    write(tmp_path, {"main.py": PROGRAM})

    assert output_of(tmp_path, "main.py", env=variables) == PRINTS


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed, tmp_path):
    write(tmp_path, {"main.py": PROGRAM})
    output = tmp_path / "output"

    command = f"exec {sys.executable} main.py {closed}"
    environment = {**os.environ, "OUTPUT": str(output)}
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=50,
        check=False,
    )

    assert (ended.returncode, output.read_text()) == (0, PRINTS)


def test_the_working_directory_may_be_gone(tmp_path):
    write(tmp_path, {"main.py": PROGRAM, "gone/file": ""})
    command = f"rm file && rmdir ../gone && exec {sys.executable} {tmp_path}/main.py"

    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", PRINTS)


# -- the end -------------------------------------------------------------------------------------


def test_a_program_that_only_shares_objects_ends_without_a_word(tmp_path):
    program = "import unirun\nqueue = unirun.Queue()\nqueue.put(1)\nprint(queue.get())\n"

    assert output_of(tmp_path, "-c", program) == "1\n"


@pytest.mark.parametrize("ending", ["", "raise SystemExit(5)", "1 / 0"])
def test_what_was_submitted_is_finished_however_the_script_ends(ending, tmp_path):
    program = f"""
import os, unirun
@unirun.task(kind="cpu")
def say(x):
    os.write(1, b"ran %d\\n" % x)  # a line in one piece, whoever else writes
for x in range(3):
    say.submit(x)
{ending}
"""
    ended = python(tmp_path, "-c", program)

    assert sorted(ended.stdout.split("\n")) == ["", "ran 0", "ran 1", "ran 2"]
    assert ended.returncode == (5 if "5" in ending else 1 if ending else 0)


HANGS = """
import os, time, unirun
@unirun.task(kind="KIND")
def forever(x=0):
    os.write(1, b"it runs\\n")
    while True:
        time.sleep(60)
forever.WAIT
"""


def program_that_hangs(kind: str, wait: str) -> str:
    return HANGS.replace("KIND", kind).replace("WAIT", wait)


@pytest.mark.parametrize("kind", ["io", "cpu"])
def test_a_call_that_hangs_at_exit_is_ended_and_named_once_its_grace_is_over(kind, tmp_path):
    grace = {**os.environ, "UNIRUN_EXIT_GRACE": "1"}

    began = time.monotonic()
    ended = python(tmp_path, "-c", program_that_hangs(kind, "submit()"), env=grace)

    named = "unirun: at exit, ended calls that hung for 1 s: __main__.forever\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "it runs\n", named)
    assert 1 <= time.monotonic() - began < 5


@pytest.mark.parametrize("wait", ["submit().result()", "run()", "map([1, 2]).__next__()"])
@pytest.mark.parametrize("kind", ["io", "cpu"])
def test_ctrl_c_ends_a_program_although_its_calls_run_on(kind, wait, tmp_path):
    code = program_that_hangs(kind, wait)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout.readline() == "it runs\n"
        began = time.monotonic()
        press_ctrl_c(program)
        _, errors = program.communicate(timeout=20)

    assert program.returncode == -signal.SIGINT
    assert errors.endswith("KeyboardInterrupt\n")
    assert time.monotonic() - began < 10


def press_ctrl_c(program: subprocess.Popen[str]) -> None:
    """Until it ends: Python misses a signal that comes just as it begins to wait for a lock."""
    for _ in range(10):
        program.send_signal(signal.SIGINT)
        try:
            program.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
        return


def test_a_misspelt_variable_is_told_with_what_was_meant(tmp_path):
    ended = python(
        tmp_path,
        "-c",
        "import unirun; unirun.run(abs, 1)",
        env={**os.environ, "UNIRUN_BACKND": "inline"},
    )

    assert ended.returncode == 1
    assert "did you mean 'UNIRUN_BACKEND'?" in ended.stderr


# -- tasks in classes, maps of maps --------------------------------------------------------------


class Base:
    @unirun.task(kind="cpu")
    @classmethod
    def above(cls, x=0):
        return cls.__name__, x

    @classmethod
    @unirun.task(kind="cpu")
    def below(cls, x=0):
        return cls.__name__, x


class Derived(Base):
    pass


def test_a_task_above_classmethod_gets_the_class_it_was_asked_of():
    assert Base.above(1) == ("Base", 1)
    assert Derived().above(2) == ("Derived", 2)
    with unirun.Executor(1):
        assert Derived.above.submit(3).result(20) == ("Derived", 3)
        assert list(Derived.above.map([4])) == [("Derived", 4)]
        assert Derived.above.options(timeout=20).run(5) == ("Derived", 5)


def test_a_task_below_classmethod_gets_its_class_or_says_what_to_write():
    assert Derived.below(1) == ("Derived", 1)
    with unirun.Executor(1):
        if sys.version_info < (3, 13):
            assert Derived.below.submit(2).result(20) == ("Derived", 2)
            return
        with pytest.raises(TypeError, match="write @task above @classmethod"):
            Derived.below.submit(2)
        with pytest.raises(TypeError, match="write @task above @classmethod"):
            Derived.below.map([2])


def test_a_map_over_a_map_knows_how_many_items_there_will_be():
    told = []
    with unirun.Executor(1, backend="thread") as executor:
        first = executor.map(abs, iter([-1, -2, -3]))
        second = executor.map(str, first, progress=lambda done, total: told.append((done, total)))

        assert list(second) == ["1", "2", "3"]

    assert told == [(1, 3), (2, 3), (3, 3)]
