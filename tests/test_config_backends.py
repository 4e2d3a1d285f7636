"""Backends of other packages, named in every place where a backend can be named."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from settings_files import why, write

import unirun
from unirun import ConfigError, Executor, UnknownBackend, config, configure, task

TIMEOUT = 30.0

ENGINE = """
from unirun.backends.thread import ThreadBackend
class Theirs(ThreadBackend):
    name = "theirs"
    option_names = ("colour",)
    def __init__(self, spec):
        super().__init__(spec)
        if spec.options.get("colour", "red") not in ("red", "blue"):
            raise ValueError(f"colour={spec.options['colour']!r} is none; use 'red' or 'blue'")
"""
ENTRY_POINTS = "[unirun.backends]\ntheirs = their_engine:Theirs\nneedy = needy_engine:Needy\n"


@pytest.fixture(autouse=True)
def installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What `pip install` would leave of a package with two backends, in a directory of its own."""
    site = here / "site"
    write(site / "their_engine.py", ENGINE)
    write(site / "needy_engine.py", "import an_engine")
    metadata = site / "their_package-1.dist-info"
    write(metadata / "entry_points.txt", ENTRY_POINTS)
    write(metadata / "METADATA", "Metadata-Version: 2.1", "Name: their-package", "Version: 1")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("their_engine", None)


def backend_name() -> str:
    running = unirun.current_task()
    assert running is not None
    return running.backend


def answer(submitter: Any) -> Any:
    return submitter.submit(backend_name).result(TIMEOUT)


def by_executor(name: str, here: Path) -> Any:
    with Executor(1, backend=name) as executor:
        return answer(executor)


def by_options(name: str, here: Path) -> Any:
    with Executor(1) as executor:
        return answer(executor.options(backend=name))


def by_decorator(name: str, here: Path) -> Any:
    with Executor(1) as executor:
        return executor.submit(task(backend=name)(backend_name)).result(TIMEOUT)


def by_block(name: str, here: Path) -> Any:
    with config(backend=name), Executor(1) as executor:
        return answer(executor)


def by_configure(name: str, here: Path) -> Any:
    configure(routes={"auto": name}, backend={name: {"colour": "blue"}})
    with Executor(1) as executor:
        return answer(executor)


def by_variable(name: str, here: Path) -> Any:
    return _with_variable("UNIRUN_BACKEND", name)


def by_route_of_a_variable(name: str, here: Path) -> Any:
    return _with_variable("UNIRUN_ROUTES", f"auto={name},io=thread")


def _with_variable(variable: str, value: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value)
        with Executor(1) as executor:
            return answer(executor)


def by_file(name: str, here: Path) -> Any:
    write(here / "unirun.toml", f"backend = '{name}'")
    with Executor(1) as executor:
        return answer(executor)


def by_route_of_a_file(name: str, here: Path) -> Any:
    table = f"[backend.'{name}']"
    write(here / "unirun.toml", f"routes.auto = '{name}'", table, "colour = 'blue'", "grace = 1")
    with Executor(1) as executor:
        return answer(executor)


def by_rule(name: str, here: Path) -> Any:
    write(here / "unirun.toml", f"task.'*:backend_name'.backend = '{name}'")
    with Executor(1) as executor:
        return answer(executor)


PLACES: list[Callable[[str, Path], Any]] = [
    *(by_executor, by_options, by_decorator, by_block, by_configure),
    *(by_variable, by_route_of_a_variable, by_file, by_route_of_a_file, by_rule),
]


@pytest.mark.parametrize("name", ["theirs", "their_engine:Theirs"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_backend_of_another_package_is_named(
    place: Callable[[str, Path], Any], name: str, here: Path
) -> None:
    assert place(name, here) == "theirs"


def test_a_worker_knows_the_backends_of_other_packages_too(here: Path) -> None:
    write(here / "unirun.toml", "routes.auto = 'theirs'")
    with Executor(1, backend="process") as executor:
        assert executor.submit(by_nobody).result(TIMEOUT) == "theirs"


def by_nobody() -> Any:
    with Executor(1) as executor:
        return answer(executor)


# -- what is wrong with them ----------------------------------------------------------------------


def test_an_option_it_does_not_have_is_refused_with_its_line(here: Path) -> None:
    path = write(here / "unirun.toml", "routes.auto = 'theirs'", "backend.theirs.color = 'blue'")
    with Executor(1) as executor:
        text = why(ConfigError, executor.submit, backend_name)
    says = "unknown option of the 'theirs' backend 'color'; did you mean 'colour'?"
    assert text == f"unirun.toml (line 2 of {path}): {says}"


def test_what_it_says_of_a_value_is_told_with_its_line(here: Path) -> None:
    path = write(here / "unirun.toml", "routes.auto = 'theirs'", "backend.theirs.colour = 'grue'")
    with Executor(1) as executor:
        text = why(ConfigError, executor.submit, backend_name)
    assert text == f"unirun.toml (line 2 of {path}): colour='grue' is none; use 'red' or 'blue'"


def test_what_it_needs_and_is_missing_is_told_with_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNIRUN_ROUTES", "auto=needy")
    with Executor(1) as executor:
        text = why(unirun.BackendUnavailable, executor.submit, backend_name)
    assert text == "UNIRUN_ROUTES: the 'needy' backend needs 'an_engine'; install it"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("their_engine:Their", "'their_engine' has no class 'Their'"),
        ("json:dumps", "'json:dumps' is not a subclass of unirun.backend.Backend"),
        ("nowhere:Backend", "there is no module 'nowhere'"),
    ],
)
def test_a_class_that_is_none_is_told_with_its_place(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIRUN_BACKEND", name)
    assert why(UnknownBackend, Executor).startswith(f"UNIRUN_BACKEND: {says}")


def test_a_module_that_is_to_be_preloaded_and_is_nowhere_is_told_with_its_place(
    here: Path,
) -> None:
    path = write(here / "unirun.toml", "preload = ['json', 'nowhere.at_all']")
    with Executor(1, backend="process") as executor:
        text = why(ConfigError, executor.submit, backend_name)
    says = "cannot use 'nowhere.at_all' in preload; there is no module 'nowhere' here"
    assert text == f"unirun.toml (line 1 of {path}): {says}; install it, or leave it out"


def test_a_program_finds_them_where_they_are_installed(installed: Path) -> None:
    code = "import unirun; print(unirun.submit(lambda: unirun.current_task().backend).result())"
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path, "UNIRUN_BACKEND": "theirs"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (done.stdout, done.stderr) == ("theirs\n", "")
