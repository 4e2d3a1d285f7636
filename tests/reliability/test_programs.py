"""How programs are started, and what they use beside unirun: scenarios 29, 55, 60 to 62 and 66."""

import os
import shutil
import subprocess
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import process.conftest as fixtures
import pytest
import reliability_bodies_worlds as bodies
from process import watch
from process.line import PATIENCE

import unirun

pool, method = fixtures.pool, fixtures.method
Pool = Callable[..., unirun.Executor]

NOT_APPLICABLE = {
    "BLAS budget on a reused worker": "unirun sets no budget: a worker has the variables of its "
    "program, see test_variables_reach_every_worker",
}

# It has no guard, and its functions and classes exist nowhere else.
PROGRAM = """
import unirun

SCALE = 3

class Point:
    def __init__(self, x):
        self.x = x

def scaled(point):
    return Point(SCALE * point.x)

executor = unirun.Executor(2, backend="process")
assert executor.submit(scaled, Point(2)).result(20).x == 6
assert list(executor.map(lambda x: x + SCALE, range(3))) == [3, 4, 5]
queue = executor.Queue()
executor.submit(queue.put, "fine").result(20)
print(queue.get(timeout=20))
executor.shutdown()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with unirun and what it needs, for a `sys.path` that has nothing of ours."""
    path = tmp_path_factory.mktemp("home")
    package = Path(unirun.__file__).parent
    shutil.copytree(package, path / "unirun", ignore=shutil.ignore_patterns("__pycache__"))
    if not (package / "backends").is_dir():  # a checkout: they are beside it
        inside = path / "unirun" / "backends"
        shutil.copytree(package.parent / "backends", inside)
    shutil.copytree(Path(cloudpickle.__file__).parent, path / "cloudpickle")
    return path


def run(
    command: list[str], *, path: Path, typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command,
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=path,
        env=environment | variables,
    )


def as_module(path: Path) -> list[str]:
    (path / "my_program.py").write_text(PROGRAM)
    return ["-m", "my_program"]


def as_directory(path: Path) -> list[str]:
    (path / "folder").mkdir()
    (path / "folder" / "__main__.py").write_text(PROGRAM)
    return ["folder"]


def as_script(path: Path) -> list[str]:
    (path / "my script.py").write_text(PROGRAM)
    return ["my script.py"]


@pytest.mark.scenario(29, "a script, -m, a directory: each runs once, and its functions elsewhere")
@pytest.mark.parametrize("start", [as_script, as_module, as_directory])
def test_a_program_runs_however_it_is_started(
    tmp_path: Path, start: Callable[[Path], list[str]]
) -> None:
    done = run([sys.executable, *start(tmp_path)], path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.scenario(29, "python -c, and a program that comes through stdin")
@pytest.mark.parametrize("way", ["-c", "-"])
def test_a_program_that_is_no_file(tmp_path: Path, way: str) -> None:
    text, typed = ([PROGRAM], "") if way == "-c" else ([], PROGRAM)
    done = run([sys.executable, way, *text], path=tmp_path, typed=typed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.scenario(29, "a notebook: code that is executed in a module of nobody's")
def test_a_program_like_a_notebook(tmp_path: Path) -> None:
    """Its `__main__` has no file, and each cell is compiled by itself under a name of its own."""
    cells = PROGRAM.split("\n\n")
    source = f"""
    import sys, types
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    for number, cell in enumerate({cells!r}):
        exec(compile(cell, f"<ipython-input-{{number}}>", "exec"), main.__dict__)
    """
    done = watch.run(tmp_path, source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


OPTIONS = [["-I"], ["-I", "-S"], ["-OO"], ["-X", "dev", "-W", "error"]]


@pytest.mark.scenario("options -I -S -OO -X dev -W error", "workers come up with the same")
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_a_program_with_options(tmp_path: Path, home: Path, options: list[str]) -> None:
    text = f"import sys; sys.path.insert(0, {str(home)!r})\n{PROGRAM}"
    done = run([sys.executable, *options, "-c", text], path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.scenario("PYTHONSAFEPATH", "workers come up without the directory of the program")
@pytest.mark.scenario("PYTHONHOME, PYTHONOPTIMIZE", "workers have them too")
def test_a_program_with_variables(tmp_path: Path, home: Path) -> None:
    variables = {"PYTHONSAFEPATH": "1", "PYTHONHOME": sys.base_prefix, "PYTHONOPTIMIZE": "2"}
    command = [sys.executable, *as_script(tmp_path)]
    done = run(command, path=tmp_path, PYTHONPATH=str(home), **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.scenario("zipapp", "a program that is one file, with unirun in it")
def test_a_program_in_a_zip_file(tmp_path: Path, home: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(home, app)
    (app / "my_code.py").write_text("def double(x):\n    return 2 * x\n")
    (app / "__main__.py").write_text(
        PROGRAM.replace('"process"', '"process", manager="process"')
        + "\nimport my_code\nwith unirun.Executor(1, backend='process') as executor:"
        "\n    assert executor.submit(my_code.double, 4).result(20) == 8\n"
    )
    zipapp.create_archive(app, tmp_path / "app.pyz")
    shutil.rmtree(app)
    done = run([sys.executable, "-I", "-S", "app.pyz"], path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.scenario("without cloudpickle", "an error that says how to install it")
def test_without_cloudpickle_a_lambda_is_an_error_that_says_so(tmp_path: Path) -> None:
    source = """
    import sys
    sys.modules["cloudpickle"] = None  # not to be imported
    import unirun
    with unirun.Executor(1, backend="process") as executor:
        print(executor.submit(lambda: 1).exception(20))
        print(executor.submit(len, "four").result(20))
    """
    done = watch.run(tmp_path, source)
    told, right = done.stdout.splitlines()
    assert "cannot be pickled without cloudpickle" in told
    assert told.endswith("; run: pip install cloudpickle")
    assert (right, done.stderr) == ("4", "")


# -- no interpreter of its own --------------------------------------------------------------------

FROZEN = """
import sys
sys.frozen = True
sys.executable = sys.argv[1]
import unirun

executor = unirun.Executor(2, backend="process", mp_context=sys.argv[2], manager="process")
error = executor.submit(len, "").exception(20)
try:
    executor.Lock()
except unirun.UnirunError as exc:
    print(exc)
executor.shutdown()
print(type(error).__name__, error)
"""


@pytest.mark.scenario("PyInstaller", "a frozen program does not start itself, and says what to do")
@pytest.mark.parametrize("method", ["zygote", "spawn"])
def test_a_frozen_program_does_not_start_itself(tmp_path: Path, method: str) -> None:
    """Where it did, each copy would start others, and so on."""
    itself = tmp_path / "program"
    itself.write_text(f'#!/bin/sh\necho started >>"{tmp_path}/starts"\n')
    itself.chmod(0o755)
    done = watch.run(tmp_path, FROZEN, str(itself), method)
    assert done.stderr == ""
    about_manager, about_workers = done.stdout.splitlines()
    assert about_workers.startswith("InitializerFailed no worker can be started: a frozen program")
    for told in (about_manager, about_workers):
        assert "name a Python by multiprocessing.set_executable(), or use mp_context='fork'" in told
    assert not (tmp_path / "starts").exists()


@pytest.mark.scenario("PyInstaller", "works with a Python that was named, and by fork")
@pytest.mark.parametrize("way", ["named", "fork"])
def test_a_frozen_program_can_have_workers(tmp_path: Path, way: str) -> None:
    source = f"""
    import multiprocessing, sys
    python, sys.frozen, sys.executable = sys.executable, True, "/nowhere/program"
    method = None if {way!r} == "named" else "fork"
    if method is None:
        multiprocessing.set_executable(python)
    import unirun
    with unirun.Executor(1, backend="process", mp_context=method) as executor:
        print(executor.submit(len, "four").result(20))
    """
    done = watch.run(tmp_path, source)
    assert (done.stdout, done.stderr) == ("4\n", "")


@pytest.mark.scenario("sys.executable is empty, or no Python", "an error that says what to do")
@pytest.mark.parametrize(
    ("executable", "told"),
    [
        (None, "sys.executable is empty; name a Python by multiprocessing.set_executable()"),
        ("/nowhere/python", "No such file or directory: '/nowhere/python'"),
        ("/bin/true", "does the program that is sys.executable (/bin/true) start"),
    ],
)
def test_without_a_python_the_error_says_so(
    tmp_path: Path, executable: str | None, told: str
) -> None:
    source = f"""
    import sys
    sys.executable = {executable!r}
    import unirun
    with unirun.Executor(1, backend="process") as executor:
        print(executor.submit(len, "").exception(20))
    """
    done = watch.run(tmp_path, source)
    assert told in done.stdout
    assert done.stderr == ""


# -- beside other things --------------------------------------------------------------------------

FORKSERVER = """
import multiprocessing
multiprocessing.set_start_method("forkserver")
multiprocessing.set_forkserver_preload(["__main__"])
import unirun
print("body")
with unirun.Executor(2, backend="process") as executor:
    assert list(executor.map(abs, range(-3, 0))) == [3, 2, 1]
"""


@pytest.mark.scenario("forkserver preloads __main__", "no process of ours runs the program again")
def test_nothing_of_ours_runs_the_program_again(tmp_path: Path) -> None:
    done = watch.run(tmp_path, FORKSERVER)
    assert (done.stdout, done.stderr) == ("body\n", "")


PYTEST = """
import unirun

def local(x):
    return x + 1

class TestIt:
    def test_calls(self, tmp_path):
        with unirun.Executor(2, backend="process") as executor:
            assert executor.submit(local, 2).result(20) == 3
            assert executor.submit(lambda: tmp_path.name).result(20) == tmp_path.name
            print("captured or not")
"""


@pytest.mark.scenario("under pytest", "functions of a test module are known to the workers")
def test_a_test_may_use_workers(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PYTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = run([*command, "test_it.py"], path=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.scenario(55, "each of them works in a task")
def test_a_task_may_start_processes_pools_and_programs(pool: Pool, method: str) -> None:
    executor = pool(1, method)
    assert executor.submit(bodies.start_all_kinds).result(PATIENCE) == [0, [2, 4], "''"]


@pytest.mark.scenario(60, "no freeze, with any start method")
def test_blas_may_be_used_in_the_parent_first(pool: Pool, method: str) -> None:
    size = 200
    assert bodies.multiply(size) == size
    executor = pool(2, method)
    futures = [executor.submit(bodies.multiply, size) for _ in range(4)]
    assert [future.result(PATIENCE) for future in futures] == [size] * 4
    assert bodies.multiply(size) == size


@pytest.mark.scenario(61, "variables reach every worker, also those that are started later")
def test_variables_reach_every_worker(
    pool: Pool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    executor = pool(1, method)
    assert executor.submit(bodies.variable, "OMP_NUM_THREADS").result(PATIENCE) == "3"
    executor.kill_workers()
    assert executor.submit(bodies.variable, "OMP_NUM_THREADS").result(PATIENCE) == "3"


BOUND = """
import os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import unirun
import reliability_bodies_worlds as bodies

with unirun.Executor(backend="process", mp_context=sys.argv[1]) as executor:
    print(unirun.cpu_count(), executor.submit(bodies.cores).result(20), executor._max_workers)
"""


@pytest.mark.scenario(61, "affinity decides the size; cgroups and settings do elsewhere")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_program_bound_to_one_core_has_one_worker(tmp_path: Path, method: str) -> None:
    done = watch.run(tmp_path, BOUND, method, env=watch.with_tests_on_path())
    assert (done.stdout, done.stderr) == ("1 1 1\n", "")


THREADED = """
import sys, threading
sys.path.insert(0, sys.argv[1])
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
import unirun
for method in (None, "spawn", "fork"):
    with unirun.Executor(1, backend="process", mp_context=method, manager="process") as executor:
        assert list(executor.map(abs, range(-3, 0))) == [3, 2, 1]
        assert executor.submit(executor.Queue().qsize).result(20) == 0
stop.set()
thread.join()
print("fine")
"""


def pythons() -> list[str]:
    """This one, and newer ones that warn of forking under threads, where there are some."""
    names = [f"python3.{minor}" for minor in (12, 13, 14)]
    found = [*filter(None, map(shutil.which, names))]
    found += map(str, sorted((Path.home() / ".pyenv/versions").glob("3.1[2-9].*/bin/python3")))
    return [sys.executable, *filter(starts, found)]


def starts(python: str) -> bool:
    return not subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode


@pytest.mark.scenario(66, "no warning, by default and with every start method")
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parts[-3])
def test_nothing_warns_of_forking_under_threads(tmp_path: Path, home: Path, python: str) -> None:
    command = [*watch.script(tmp_path, THREADED), str(home)]
    done = run([python, "-W", "error", *command[1:]], path=tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")
