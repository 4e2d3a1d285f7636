"""Fixtures for tests with real worker processes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from process.line import Line

import unirun

METHODS = ("zygote", "spawn", "fork")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pool() -> Iterator[Callable[..., unirun.Executor]]:
    """Makes executors on processes, and ends them whatever the test does."""
    made = []

    def make(workers: int = 2, method: str = "zygote", **options: object) -> unirun.Executor:
        made.append(unirun.Executor(workers, backend="process", mp_context=method, **options))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(kill=True)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Callable[[], Line]]:
    """Makes named pipes."""
    made: list[Line] = []

    def make() -> Line:
        path = str(tmp_path / f"line{len(made)}")
        os.mkfifo(path)
        made.append(Line(path))
        made[-1].keep_open()
        return made[-1]

    yield make
    for each in made:
        each.close()
