"""The pytest plugin's `unirun_backend`: where a test runs, who says so, and what is so after it."""

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook
from suites import QUICK, Run, inside, suite, text_of

from unirun.testing import plugin

__all__ = ["inside", "suite"]  # fixtures

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent

# Where calls of an executor run, as a test inside can find out.
PLACES = """
def place(executor=unirun):
    if executor.submit(os.getpid).result() != os.getpid():
        return "process"
    here = executor.submit(threading.get_ident).result() == threading.get_ident()
    return "inline" if here else "thread"

BACKENDS = ["inline", "thread", "process"]
on_each = pytest.mark.parametrize("unirun_backend", BACKENDS, indirect=True)
"""


def names_of(result: pytest.RunResult) -> list[str]:
    """The tests that ran, in order, of a run with `-v`."""
    return [line.split("::")[1].split(" ")[0] for line in result.outlines if " PASSED" in line]


# -- what it does ---------------------------------------------------------------------------------


def test_whatever_the_test_makes_runs_there(suite: Run) -> None:
    result = suite(
        PLACES
        + """
@on_each
def test_it(unirun_backend):
    assert unirun_backend == os.environ["UNIRUN_BACKEND"] == place()
    with Executor(1, kind="io") as executor:
        assert place() == place(executor) == unirun_backend
    with Executor(1, backend="thread") as executor:
        assert place(executor) == unirun_backend
"""
    )

    result.assert_outcomes(passed=3)


def test_so_does_what_its_fixtures_make_in_whatever_order(suite: Run) -> None:
    result = suite(
        PLACES
        + """
@pytest.fixture
def pool():
    with Executor(1, name="pool") as executor:
        yield executor

@pytest.fixture(autouse=True)
def at_first():
    KEPT.append(os.environ.get("UNIRUN_BACKEND"))
    yield
    assert os.environ.get("UNIRUN_BACKEND") == KEPT[-1]

@on_each
def test_it(pool, unirun_backend):
    assert place(pool) == unirun_backend == KEPT[-1]

def test_without():
    assert KEPT[-1] is None
"""
    )

    result.assert_outcomes(passed=4)


def test_after_it_all_is_as_it_was(suite: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIRUN_BACKEND", "thread")
    result = suite(
        PLACES
        + """
def test_before():
    KEPT.extend([unirun.current_executor(), place()])

@on_each
def test_it(unirun_backend):
    KEPT.append(unirun.current_executor())
    assert place() == unirun_backend

def test_after():
    before, was, *between = KEPT
    assert (unirun.current_executor(), place()) == (before, was) and not before._closed
    assert os.environ["UNIRUN_BACKEND"] == "thread"
    assert before not in between and all(executor._closed for executor in between)
"""
    )

    result.assert_outcomes(passed=5)


def test_an_executor_of_others_stays_what_it_is_and_is_not_current(suite: Run) -> None:
    result = suite(
        PLACES
        + """
@pytest.fixture(scope="module")
def shared():
    with Executor(1, backend="thread") as executor:
        yield executor

def test_current(shared):
    assert unirun.current_executor() is shared

@on_each
def test_it(shared, unirun_backend):
    assert place(shared) == "thread"
    assert place() == unirun_backend

def test_current_again(shared):
    assert unirun.current_executor() is shared
"""
    )

    result.assert_outcomes(passed=5)


@pytest.mark.parametrize("args", [[], ["--unirun-leaks=off"]], ids=["checked", "unchecked"])
def test_its_default_executor_ends_with_it(args: list[str], suite: Run) -> None:
    result = suite(
        """
def test_it(unirun_backend):
    KEPT.append(unirun.current_executor())
    unirun.submit(abs, -1).result()

def test_after():
    with pytest.raises(unirun.ExecutorShutdown):
        KEPT[0].submit(abs, -1)
    assert KEPT[0]._ended
""",
        *args,
    )

    result.assert_outcomes(passed=2)


def test_calls_left_there_are_leaks(suite: Run) -> None:
    result = suite("def test_it(gate, unirun_backend): unirun.submit(gate.wait)")

    result.assert_outcomes(passed=1, errors=1)
    said = "leaked by the test: call threading.Event.wait of executor 'unirun-default'"
    assert said in text_of(result)


# -- who says it ----------------------------------------------------------------------------------

ASKS = """
def test_it(unirun_backend): KEPT.append(unirun_backend)
@pytest.mark.parametrize("other", [1, 2])
def test_two(unirun_backend, other): pass
@pytest.mark.parametrize("unirun_backend", ["inline"], indirect=True)
def test_own(unirun_backend): pass
def test_none(): pass
"""
WITHOUT = ["test_it", "test_two[1]", "test_two[2]", "test_own[inline]", "test_none"]
ON_TWO = [
    *("test_it[thread]", "test_it[inline]"),
    *("test_two[1-thread]", "test_two[1-inline]", "test_two[2-thread]", "test_two[2-inline]"),
    *("test_own[inline]", "test_none"),
]


@pytest.mark.parametrize(
    ("args", "ini", "ran"),
    [
        ([], "", WITHOUT),
        (["--unirun-backend=thread,inline"], "", ON_TWO),
        (["--unirun-backend=thread", "--unirun-backend", "inline,thread"], "", ON_TWO),
        ([], "unirun_backend = thread inline", ON_TWO),
        (["--unirun-backend=thread,inline"], "unirun_backend = process", ON_TWO),
    ],
)
def test_the_tests_that_ask_run_once_on_each(
    args: list[str], ini: str, ran: list[str], suite: Run
) -> None:
    result = suite(ASKS, "-v", *args, ini=ini)

    result.assert_outcomes(passed=len(ran))
    assert sorted(names_of(result)) == sorted(ran)


@pytest.mark.parametrize(
    ("variable", "configured", "name"),
    [(None, None, "thread"), (None, "inline", "inline"), ("coroutine", "inline", "coroutine")],
)
def test_else_the_configuration_does(
    variable: str | None,
    configured: str | None,
    name: str,
    suite: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable:
        monkeypatch.setenv("UNIRUN_BACKEND", variable)
    result = suite(f"""
unirun.configure(backend={configured!r})

def test_it(unirun_backend):
    assert unirun_backend == {name!r}

def teardown_module():
    unirun.configure(backend=None)
""")

    result.assert_outcomes(passed=1)


def test_so_may_hooks_of_the_project(suite: Run) -> None:
    conftest = """
def pytest_generate_tests(metafunc):
    if "unirun_backend" in metafunc.fixturenames:
        metafunc.parametrize("unirun_backend", ["inline"], indirect=True)
"""
    code = "def test_it(unirun_backend): assert unirun_backend == 'inline'"
    result = suite(code, "--unirun-backend=thread", conftest=conftest)

    result.assert_outcomes(passed=1)


def test_what_cannot_be_parametrized_runs_on_the_first(suite: Run) -> None:
    code = """
class Case(unittest.TestCase):
    @pytest.mark.usefixtures("unirun_backend")
    def test_it(self): assert os.environ["UNIRUN_BACKEND"] == "inline"

def test_late(request): assert request.getfixturevalue("unirun_backend") == "inline"
"""
    result = suite(code, "--unirun-backend=inline,thread")

    result.assert_outcomes(passed=2)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("indirect", ["", ", indirect=['other']", ", indirect=False"])
def test_a_plain_parameter_of_that_name_is_refused(indirect: str, suite: Run) -> None:
    result = suite(f"""
@pytest.fixture
def other(request): return request.param

@pytest.mark.parametrize("other, unirun_backend", [(1, "inline")]{indirect})
def test_it(unirun_backend, other): pass
""")

    result.assert_outcomes(errors=1)
    assert "unirun_backend is a plain value and changes no backend; use @pytest" in text_of(result)


def test_indirect_by_name_is_not(suite: Run) -> None:
    result = suite("""
@pytest.mark.parametrize(("other", "unirun_backend"), [(1, "inline")], indirect=["unirun_backend"])
def test_it(unirun_backend, other): pass
""")

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("name", ["tread", "no_such_module:Backend", "unirun.backend:Stats"])
def test_a_backend_there_is_not_is_one_error_at_once(name: str, suite: Run) -> None:
    result = suite(ASKS, f"--unirun-backend=inline,{name}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "unirun_backend: " in result.stderr.str()
    assert name.partition(":")[0] in result.stderr.str()
    assert ("did you mean 'thread'" in result.stderr.str()) == (name == "tread")


def test_nor_does_a_test_run_on_one(suite: Run) -> None:
    result = suite("""
@pytest.mark.parametrize("unirun_backend", ["tread"], indirect=True)
def test_it(unirun_backend): pass

def test_next(): assert "UNIRUN_BACKEND" not in os.environ
""")

    result.assert_outcomes(errors=1, passed=1)
    assert "UnknownBackend: unknown backend 'tread'" in text_of(result)


# -- what it costs, and how it is found -----------------------------------------------------------


def test_it_imports_nothing_of_unirun_that_could_run_a_call() -> None:
    code = """
import sys, pytest
before = set(sys.modules)
import unirun.testing.plugin
print(*sorted(set(sys.modules) - before))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout.split() == ["unirun", "unirun.testing", "unirun.testing.plugin"]


def test_pytest_does_not_rewrite_unirun_for_its_sake(pytestconfig: pytest.Config) -> None:
    hook, quiet = AssertionRewritingHook(pytestconfig), SimpleNamespace(trace=lambda _: None)
    hook.mark_rewrite("no_such_module")
    hook._must_rewrite.add("unirun")
    assert hook._is_marked_for_rewrite("unirun._map", quiet)

    plugin._leave_as_written(SimpleNamespace(rewrite_hook=hook))
    plugin._leave_as_written(SimpleNamespace())

    assert not hook._is_marked_for_rewrite("unirun._map", quiet)
    assert hook._is_marked_for_rewrite("no_such_module", quiet)


def test_a_suite_without_unirun_imports_none_and_one_on_xdist_is_checked(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
import sys

def test_nothing():
    assert not [name for name in sys.modules if name.startswith("unirun._")]
""",
        test_other="""
def test_left():
    import time, unirun
    unirun.submit(time.sleep, 1)
""",
    )
    pytester.makeini("[pytest]\nunirun_leak_grace = 0")
    pytester.makeconftest("" if installed() else 'pytest_plugins = ["unirun.testing.plugin"]')
    result = pytester.runpytest_subprocess("-n1", "--dist=loadfile", "-pno:hypothesispytest")

    result.assert_outcomes(passed=2, errors=1)
    assert "leaked by the test: call time.sleep of executor 'unirun-default'" in text_of(result)


def installed() -> bool:
    return bool(entry_points(group="pytest11", name="unirun"))


def test_pytest_finds_it_by_a_name_that_can_be_refused(pytester: pytest.Pytester) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, module)] = project["entry-points"]["pytest11"].items()

    assert hasattr(import_module(module), "pytest_addoption")
    if not installed():
        pytest.skip("what is installed is older than the entry point; install it again")
    result = pytester.runpytest_inprocess(*QUICK, f"-pno:{name}", "--fixtures")
    assert "unirun_backend" not in result.stdout.str()
    result = pytester.runpytest_inprocess(*QUICK, "--fixtures")
    assert "unirun_backend -- " in result.stdout.str()
