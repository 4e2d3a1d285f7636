"""Whose leak it is by the pytest plugin, and what becomes of the test."""

import re

import pytest
from suites import PATIENCE, Run, inside, suite, text_of

__all__ = ["inside", "suite"]  # fixtures

pytest_plugins = ["pytester"]


# -- whose it is ----------------------------------------------------------------------------------


def test_a_wider_fixture_answers_for_what_it_made_when_it_ends(suite: Run) -> None:
    result = suite("""
@pytest.fixture(scope="module")
def pool():
    return keep(Executor(name="pool"))

class TestOne:
    @classmethod
    def setup_class(cls):
        keep(Executor(name="of-class"))

    def test_first(self, pool): pass
    def test_last_of_class(self, pool): pass

def test_between(): pass
def test_at_last(request): request.getfixturevalue("late")

@pytest.fixture(scope="module")
def late():
    return keep(Executor(name="late"))
""")

    result.assert_outcomes(passed=4, errors=2)
    blocks = re.split(r"_+ ERROR at teardown of ", result.stdout.str())[1:]
    assert [block.split()[0] for block in blocks] == ["TestOne.test_last_of_class", "test_at_last"]
    assert "leaked by the class's set-up: executor 'of-class'" in blocks[0]
    assert "leaked by the module's fixture 'pool': executor 'pool'" in blocks[1]
    assert "leaked by the module's fixture 'late': executor 'late'" in blocks[1]


def test_a_test_answers_for_its_calls_on_an_executor_of_others(suite: Run) -> None:
    result = suite("""
@pytest.fixture(scope="module")
def pool(request):
    with Executor(2, backend="process", name="pool") as executor:
        yield executor

def test_first(pool): pool.submit(time.sleep, 60)
def test_second(pool): assert pool.submit(abs, -1).result() == 1
""")

    result.assert_outcomes(passed=2, errors=1)
    assert "leaked by the test: call time.sleep #" in text_of(result)
    assert result.duration < PATIENCE, "the call was ended, so the fixture need not wait for it"


def test_a_call_in_a_process_that_waits_for_another_is_ended_with_it(suite: Run) -> None:
    result = suite("""
def nested():
    unirun.current_executor().options(kind="isolated").submit(time.sleep, 60).result()

def test_it():
    executor = keep(Executor(2, backend="process", name="pool"))
    keep(executor.submit(nested))
    until = time.monotonic() + 10
    while executor.stats()["process"].running < 2:
        assert time.monotonic() < until
        time.sleep(0.01)

def test_next():
    assert concurrent.futures.wait([KEPT[1]], 20).done
    assert KEPT[0].submit(abs, -1).result(20) == 1
""")

    result.assert_outcomes(passed=2, errors=1)
    assert "call test_it.nested #" in text_of(result)
    assert "call time.sleep #" in text_of(result)


def test_what_a_call_of_others_submits_is_theirs(suite: Run) -> None:
    result = suite("""
def serve(begin):
    begin.wait()
    unirun.current_executor().options(kind="isolated").submit(time.sleep, 60).result()

@pytest.fixture(scope="module")
def service():
    with Executor(2, backend="process") as executor:
        begin = executor.Event()
        executor.submit(serve, begin)
        yield executor, begin
        executor.shutdown(kill=True)

def test_it(service):
    executor, begin = service
    begin.set()
    until = time.monotonic() + 10
    while executor.stats()["process"].running < 2:
        assert time.monotonic() < until
        time.sleep(0.01)

def test_next(service): pass
""")

    result.assert_outcomes(passed=2)


def test_a_call_of_others_that_is_tried_again_is_theirs(suite: Run) -> None:
    result = suite("""
@pytest.fixture(scope="module")
def service():
    with Executor(3, backend="thread") as executor:
        begin, ends = threading.Event(), threading.Event()
        fails = iter([True, False, False])

        def body():
            if next(fails):
                begin.wait()
                raise ValueError
            begun.release()
            ends.wait()

        begun = threading.Semaphore(0)
        executor.options(retries=unirun.Retry(1, backoff=0)).submit(body)
        yield begin, begun
        ends.set()

def test_it(service):
    begin, begun = service
    begin.set()
    assert begun.acquire(timeout=20)

def test_next(service): pass
""")

    result.assert_outcomes(passed=2)


def test_so_is_the_call_of_a_timer(suite: Run) -> None:
    result = suite("""
@pytest.fixture(scope="module")
def service():
    with Executor(3, backend="thread") as executor:
        begun, ends = threading.Semaphore(0), threading.Event()
        timer = executor.Timer(0.1, lambda: begun.release() or ends.wait())
        timer.start()
        yield begun
        ends.set()
        timer.join()

def test_it(service): assert service.acquire(timeout=20)
def test_next(service): pass
""")

    result.assert_outcomes(passed=2)


# -- what becomes of the test ---------------------------------------------------------------------


def test_a_failure_of_the_test_or_of_a_fixture_is_told_too(suite: Run) -> None:
    result = suite("""
@pytest.fixture
def raises():
    yield
    raise ValueError("in the fixture")

@pytest.fixture
def fails():
    yield
    pytest.fail("by the fixture", pytrace=False)

@pytest.fixture
def skips():
    yield
    pytest.skip("for the fixture")

def test_itself(): keep(Executor(name="first")); assert 1 == 2
def test_raising(raises): keep(Executor(name="second"))
def test_failing(fails): keep(Executor(name="third"))
def test_skipping(skips): keep(Executor(name="fourth"))
""")

    result.assert_outcomes(passed=3, failed=1, errors=4)
    for said in ("assert 1 == 2", "ValueError: in the fixture", "by the fixture"):
        assert said in text_of(result)
    for name in ("first", "second", "third", "fourth"):
        assert f"leaked by the test: executor '{name}'" in text_of(result)


LEAKY = """
def test_it(gate): unirun.submit(gate.wait)
def test_next():
    stats = unirun.current_executor().stats()["thread"]
    assert stats.pending + stats.running == 1
"""


def test_leaks_may_be_warnings(suite: Run) -> None:
    result = suite(LEAKY, "-Wdefault", ini="unirun_leaks = warn")

    result.assert_outcomes(passed=2, warnings=1)
    assert "PytestWarning: leaked by the test: call threading.Event" in text_of(result)


def test_which_are_errors_where_warnings_are(suite: Run) -> None:
    result = suite(LEAKY, "-Werror", ini="unirun_leaks = warn")

    result.assert_outcomes(passed=2, errors=1)
    assert "leaked by the test: call threading.Event" in text_of(result)


def test_or_nothing(suite: Run) -> None:
    result = suite(LEAKY, "--unirun-leaks=off", ini="unirun_leaks = warn")

    result.assert_outcomes(passed=2)


def test_a_module_may_leak_with_its_fixtures(suite: Run) -> None:
    result = suite("""
pytestmark = pytest.mark.unirun_leaks_allowed

@pytest.fixture(scope="module")
def pool(): return keep(Executor())

def test_it(pool, gate): keep(unirun.submit(gate.wait))
""")

    result.assert_outcomes(passed=1)


def test_calls_that_were_left_are_ended_for_the_tests_that_follow(suite: Run) -> None:
    result = suite("""
def test_left(gate):
    executor = keep(Executor(1, backend="thread"))
    keep(executor.submit(gate.wait)), keep(executor.submit(abs, 1))
    keep(unirun.task(kind="isolated")(time.sleep).submit(60))
    keep(Timer(60, abs, (1,))).start()

def test_next():
    _, _, waiting, process, timer = KEPT
    assert waiting.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        process.result(20)
    timer.join(20)
    assert not timer.is_alive()
""")

    result.assert_outcomes(passed=2, errors=1)


@pytest.mark.parametrize(
    ("ini", "said"),
    [
        ("unirun_leaks = maybe", "unirun_leaks='maybe' is not known; use error, warn, off"),
        ("unirun_leak_grace = long", "unirun_leak_grace='long' is no number of seconds; use 0 or"),
        ("unirun_leak_grace = inf", "unirun_leak_grace='inf' is no number of seconds"),
    ],
)
def test_a_setting_that_is_wrong_is_an_error_at_once(ini: str, said: str, suite: Run) -> None:
    result = suite("def test_it(): pass", ini=ini)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
