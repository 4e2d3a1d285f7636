"""The plugin of pytest: tests run on the backend they name, and leave no worker and no call behind.

    unirun_backend ──> everything of unirun in the test runs there
    before a test ──> what there is belongs to others ──> test ──> what there is besides is a leak

For users: docs/pytest.md.  pytest loads this at its start wherever unirun is installed, so it
imports nothing but pytest; what looks at executors is imported once a test has imported unirun.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from unirun.testing._leaks import Watch

FIXTURE = "unirun_backend"
MARKER = "unirun_leaks_allowed"
LEAKS = ("error", "warn", "off")
CHECK = "unirun-leaks"
"""The name under which the leak check is registered, if it is on."""
ENGINE = "unirun._executor"
"""Imported before the first executor, activity or timer is made: until then nothing can be left."""


# -- options --------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    _leave_as_written(pluginmanager)
    group = parser.getgroup("unirun")
    group.addoption(
        "--unirun-backend",
        action="append",
        default=[],
        metavar="NAME",
        help=f"run the tests that use the fixture {FIXTURE} on this backend of unirun; "
        "several by commas, or by giving it again",
    )
    group.addoption(
        "--unirun-leaks",
        choices=LEAKS,
        help="what happens to a test that leaves workers or unfinished calls of unirun behind: "
        "error (default), warn, or off",
    )
    parser.addini("unirun_backend", "the default of --unirun-backend", type="args", default=[])
    parser.addini("unirun_leaks", "the default of --unirun-leaks", default="error")
    parser.addini(
        "unirun_leak_grace",
        "seconds that calls and workers of unirun may take to end after a test (default: 2)",
        default="2",
    )
    parser.addini(
        "unirun_keep",
        "names of executors (with * and ?) that may live longer than the test that makes them",
        type="args",
        default=[],
    )


def _leave_as_written(pluginmanager: pytest.PytestPluginManager) -> None:
    """pytest would rewrite the asserts in all that comes with a plugin, which is all of unirun.

    That makes a program under test another one, and takes its import 0.3 s where no bytecode is
    kept.  There is no way to ask; where pytest has changed, it does what it would.
    """
    hook = getattr(pluginmanager, "rewrite_hook", None)
    getattr(hook, "_must_rewrite", set()).discard("unirun")
    getattr(hook, "_marked_for_rewrite_cache", {}).clear()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MARKER}(reason): the test may leave workers and calls of unirun behind"
    )
    _check_names(_backends(config))
    leaks = config.getoption("--unirun-leaks") or config.getini("unirun_leaks")
    if leaks not in LEAKS:
        raise pytest.UsageError(f"unirun_leaks={leaks!r} is not known; use {', '.join(LEAKS)}")
    if leaks != "off":
        check = LeakCheck(_grace(config), config.getini("unirun_keep"), fails=leaks == "error")
        config.pluginmanager.register(check, CHECK)


def _grace(config: pytest.Config) -> float:
    given = config.getini("unirun_leak_grace")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise pytest.UsageError(
            f"unirun_leak_grace={given!r} is no number of seconds; use 0 or more"
        )
    return seconds


def _backends(config: pytest.Config) -> list[str]:
    """What is asked for, each once, in that order."""
    given = config.getoption("--unirun-backend") or config.getini("unirun_backend")
    names = [name.strip() for each in given for name in each.split(",")]
    return list(dict.fromkeys(filter(None, names)))


def _check_names(names: list[str]) -> None:
    """A wrong one is an error at once, and not in each test."""
    if not names:
        return
    from unirun._errors import UnirunError  # for who asks for a backend
    from unirun._registry import BUILTIN, load

    for name in names:
        try:
            _ = name in BUILTIN or load(name)
        except UnirunError as exc:
            raise pytest.UsageError(f"unirun_backend: {exc}") from exc


# -- the backend of a test ------------------------------------------------------------------------


@pytest.fixture(name=FIXTURE)
def _unirun_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the backend on which everything of unirun in this test runs.

    As with UNIRUN_BACKEND, which is set for the test: whatever executors it makes, and the default
    one, which is another for this test. The name comes from an indirect parametrisation, from
    --unirun-backend or unirun_backend, from the configuration of unirun, or is "thread".
    """
    from unirun.testing._forced import Forced

    # Not everything can be parametrized: the methods of a unittest.TestCase cannot.
    forced = Forced(getattr(request, "param", None) or next(iter(_backends(request.config)), None))
    check: LeakCheck | None = request.config.pluginmanager.get_plugin(CHECK)
    yield forced.backend
    default = forced.restore()
    if default is None:
        return
    if check is None:
        default.shutdown(kill=True)
    else:
        check.leave(default)


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if FIXTURE not in metafunc.fixturenames:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        if FIXTURE in _argnames(mark):
            _check_indirect(mark)
            return
    if any(FIXTURE in call.params for call in getattr(metafunc, "_calls", ())):
        return  # by a pytest_generate_tests of the project
    if names := _backends(metafunc.config):
        metafunc.parametrize(FIXTURE, names, indirect=True)


def _argnames(mark: pytest.Mark) -> list[str]:
    names = mark.kwargs.get("argnames", mark.args[0] if mark.args else ())
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _check_indirect(mark: pytest.Mark) -> None:
    indirect = mark.kwargs.get("indirect", mark.args[2] if len(mark.args) > 2 else False)
    if indirect is not True and FIXTURE not in (indirect or ()):
        pytest.fail(
            f"parametrized directly, {FIXTURE} is a plain value and changes no backend; "
            f'use @pytest.mark.parametrize("{FIXTURE}", [...], indirect=["{FIXTURE}"])',
            pytrace=False,
        )


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> None:
    """What a test has for itself runs where the test does, in whatever order it asks for it."""
    of_test = fixturedef.scope == "function" and fixturedef.argname != FIXTURE
    if of_test and FIXTURE in getattr(request.node, "fixturenames", ()):
        request.getfixturevalue(FIXTURE)


# -- what a test leaves behind --------------------------------------------------------------------


class LeakCheck:
    """Fails a test that leaves workers or unfinished calls behind.

    What is there before a test, and what a fixture of a wider scope makes during one, is not the
    test's: the fixture answers for it, when its own scope ends.
    """

    def __init__(self, grace: float, keep: list[str], *, fails: bool) -> None:
        self._grace = grace
        self._keep = keep
        self._fails = fails
        self._made: Watch | None = None

    def _watch(self) -> Watch | None:
        """None as long as nothing has used unirun."""
        if self._made is None and ENGINE in sys.modules:
            from unirun.testing._leaks import Watch

            self._made = Watch(self._grace, self._keep)
        return self._made

    def leave(self, default: Any) -> None:
        """This default executor of a test is to be ended once it was looked at."""
        if (watch := self._watch()) is not None:
            watch.defaults.append(default)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, None]:
        if (watch := self._watch()) is not None:
            watch.begin()
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, Any, None]:
        if fixturedef.scope == "function":
            yield
            return
        before = watch.alive() if (watch := self._watch()) is not None else None
        yield
        if (watch := self._watch()) is not None:
            watch.belongs_to(fixturedef, before)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if self._made is not None and fixturedef.scope != "function":
            self._made.has_ended(fixturedef, _named(fixturedef))

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, None]:
        outcome = yield
        watch, error = self._watch(), outcome.excinfo and outcome.excinfo[1]
        if watch is None or isinstance(
            error, KeyboardInterrupt | SystemExit | pytest.exit.Exception
        ):
            return
        text = watch.judge(allowed=item.get_closest_marker(MARKER) is not None, stop=self._fails)
        if text and (self._fails or not _warn(item, text)):
            _fail(outcome, error, text)


def _warn(item: pytest.Item, text: str) -> bool:
    """False if warnings are errors."""
    try:
        item.warn(pytest.PytestWarning(text))
    except pytest.PytestWarning:
        return False
    return True


def _named(fixturedef: pytest.FixtureDef[Any]) -> str:
    hidden = fixturedef.argname.startswith("_")  # as pytest calls setup_module, setUpClass ...
    return f"the {fixturedef.scope}'s {'set-up' if hidden else f'fixture {fixturedef.argname!r}'}"


def _fail(outcome: Any, error: Any, text: str) -> None:
    """With this, and what the fixtures of the test have failed with, if they did."""
    if error is None or isinstance(error, pytest.skip.Exception):
        outcome.force_exception(pytest.fail.Exception(text, pytrace=False))
    elif isinstance(error, pytest.fail.Exception):
        error.msg = f"{error.msg}\n{text}"
    else:
        error.add_note(text)
