"""The leak check of the pytest plugin names what a test has left behind, and nothing else."""

import re

import pytest
from suites import Run, inside, suite, text_of

__all__ = ["inside", "suite"]  # fixtures

pytest_plugins = ["pytester"]


# -- nothing is said ------------------------------------------------------------------------------

CLEAN = """
def test_executors_that_are_shut_down():
    with Executor(backend="thread") as executor:
        executor.submit(abs, -1).result()
    keep(executor)

def test_the_default_executor():
    unirun.submit(abs, -1).result()

def test_what_has_ended_in_time():
    unirun.submit(time.sleep, 0.05)
    Timer(0.05, abs, (1,)).start()

def test_an_executor_that_was_dropped():
    Executor(backend="thread").submit(abs, -1)

def test_no_calls_of_others(shared):
    assert shared.submit(abs, -1).result() == 1

def test_nor_of_those_again(shared):
    assert shared.stats()["thread"].running == 1

@pytest.fixture(scope="module")
def shared():
    with Executor(2, backend="thread") as executor:
        ends = threading.Event()
        executor.submit(ends.wait)
        yield executor
        ends.set()

class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.executor = Executor(backend="thread")
        cls.executor.submit(abs, -1).result()

    @classmethod
    def tearDownClass(cls):
        cls.executor.shutdown()

    def test_one(self):
        assert self.executor.submit(abs, -1).result() == 1

    def test_another(self):
        assert self.executor.submit(abs, -1).result() == 1

@pytest.mark.unirun_leaks_allowed("says why")
def test_what_is_allowed(gate):
    keep(Executor(backend="thread")).submit(gate.wait)

def test_that_comes_after_it():
    pass

def test_one_that_may_be_kept():
    keep(Executor(backend="thread", name="app-pool")).submit(abs, -1).result()

def setup_module():
    keep(Executor(backend="thread", name="app-1")).submit(abs, -1).result()
"""


def test_what_is_no_leak_is_not_called_one(suite: Run) -> None:
    result = suite(CLEAN, ini="unirun_keep = app-*\nunirun_leak_grace = 10")

    result.assert_outcomes(passed=11)
    assert result.ret == 0


# -- something is ---------------------------------------------------------------------------------

LEAKS = {
    "an executor": (
        """keep(Executor(backend="thread", name="pool")).submit(abs, -1).result()""",
        (
            r"leaked by the test: executor 'pool', made at test_it.py:11, not shut down, "
            r"with thread 'pool_0' \(idle\); use `with Executor\(...\)`, or call shutdown\(\)"
        ),
    ),
    "an executor that did nothing": (
        """keep(Executor(name="pool"))""",
        r"executor 'pool', made at test_it.py:11, not shut down;",
    ),
    "a worker process": (
        """
    executor = keep(Executor(backend="process", name="pool"))
    pid = executor.submit(os.getpid).result()
    print(f"<{pid}>")""",
        r"executor 'pool', made at test_it.py:11, not shut down, with pid (\d+) \(idle\);.*<\1>",
    ),
    "a call of the default executor": (
        "unirun.submit(gate.wait)",
        (
            r"leaked by the test: call .*wait of executor 'unirun-default', running on thread "
            r"'unirun-default_0', submitted \d+\.\d s ago; wait for its result\(\), or cancel\(\) "
            r"it, for which the call looks at unirun.current_task\(\).cancelled"
        ),
    ),
    "calls that wait": (
        """
    one = keep(Executor(1, backend="thread", name="pool"))
    one.submit(gate.wait), one.submit(abs, -1)""",
        (
            r"leaked by the test: executor 'pool', call threading.Event.wait, "
            r"call builtins.abs .* call builtins.abs of executor 'pool', waiting, submitted"
        ),
    ),
    "a call in a process": (
        "unirun.task(kind='isolated')(time.sleep).submit(60)",
        (
            r"call time.sleep #\d+ of executor 'unirun-default', .*submitted \d+\.\d s "
            r"ago; wait for its result\(\), or cancel\(\) or kill\(\) it"
        ),
    ),
    "a call between two attempts": (
        """
    retry = unirun.Retry(3, backoff=60, jitter=0, max_backoff=60)
    unirun.current_executor().options(retries=retry).submit(divmod, 1, 0)""",
        r"leaked by the test: call \(between two attempts\) of executor 'unirun-default', waiting",
    ),
    "a thread that was given up": (
        """
    with Executor(backend="thread") as executor:
        with pytest.raises(unirun.TaskTimeout):
            executor.options(timeout=0.05).submit(gate.wait).result()
        executor.shutdown(kill=True)""",
        (
            r"leaked by the test: thread 'unirun_0', which runs a call that was given up at "
            r".*threading.py:\d+ in .*; a thread cannot be killed: have the call look at"
        ),
    ),
    "a call of a dropped executor": (
        'Executor(backend="thread", name="pool").submit(gate.wait)',
        r"leaked by the test: call .*wait of executor 'pool', running on thread 'pool_0'",
    ),
    "a shutdown that did not wait": (
        """
    executor = keep(Executor(backend="thread", name="pool"))
    executor.submit(gate.wait)
    executor.shutdown(wait=False)""",
        r"leaked by the test: call .*wait of executor 'pool', running on thread 'pool_0'",
    ),
    "a coroutine behind one that blocks the loop": (
        """
    async def blocks(): began.set(); gate.wait()
    async def waits(): pass
    began = threading.Event()
    unirun.submit(blocks); began.wait(20); unirun.submit(waits)""",
        r"call test_it.test_it.<locals>.waits of executor 'unirun-default', waiting, submitted",
    ),
    "a timer": (
        "Timer(60, abs, (1,)).start()",
        r"leaked by the test: timer 'Timer-\d+', not ended; cancel\(\) it, or join\(\) it",
    ),
    "an activity": (
        "Activity(gate.wait, daemon=True).start()",
        r"leaked by the test: activity 'Activity-\d+', not ended; have it end, and join\(\) it",
    ),
    "a process of its own": (
        "Activity(time.sleep, (60,), kind='isolated').start()",
        r"activity 'Activity-\d+', not ended on pid \d+; kill\(\) it, or join\(\) it",
    ),
}


@pytest.mark.parametrize(("code", "said"), LEAKS.values(), ids=LEAKS)
def test_a_leak_is_named_with_its_remedy(code: str, said: str, suite: Run) -> None:
    result = suite(f"def test_it(gate):\n    {code.strip()}\ndef test_next(): pass\n")

    result.assert_outcomes(passed=2, errors=1)
    assert re.search(said, text_of(result))


def test_so_is_one_of_a_fixture_or_of_its_end(suite: Run) -> None:
    result = suite("""
@pytest.fixture
def of_fixture():
    return Executor(name="of-fixture")

@pytest.fixture
def of_end():
    yield
    keep(Executor(name="of-end"))

def test_fixture(of_fixture): pass
def test_end(of_end): pass
def test_next(): pass

class Case(unittest.TestCase):
    def setUp(self):
        keep(Executor(name="of-case"))

    def test_it(self): pass
""")

    result.assert_outcomes(passed=4, errors=3)
    for name in ("of-fixture", "of-end", "of-case"):
        assert f"leaked by the test: executor '{name}', made at" in text_of(result)


def test_a_coroutine_is_no_other_test(suite: Run) -> None:
    conftest = """
import asyncio, inspect, pytest

@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        asyncio.run(pyfuncitem.obj())
        return True
"""
    code = """
async def test_awaited():
    assert await unirun.submit(abs, -1) == 1
    with Executor(backend="thread") as executor:
        assert await executor.submit(abs, -1) == 1

async def test_left():
    async def nap():
        import asyncio
        await asyncio.sleep(60)

    unirun.submit(nap)
"""
    result = suite(code, conftest=conftest)

    result.assert_outcomes(passed=2, errors=1)
    assert "leaked by the test: call test_it.test_left.<locals>.nap of exec" in text_of(result)
