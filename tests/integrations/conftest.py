"""An executor of processes, and joblib on it."""

import os
from collections.abc import Iterator

import pytest

from unirun import Executor


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor(2, backend="process", grace=0.2) as executor:
        executor.submit(os.getpid).result()  # so that there are figures
        yield executor


@pytest.fixture(scope="session")
def registered() -> None:
    from unirun.integrations.joblib import register

    register()


@pytest.fixture
def on_processes(registered: None, executor: Executor) -> Iterator[Executor]:
    """What joblib runs on in this test."""
    from joblib import parallel_config

    with parallel_config("unirun", n_jobs=2, executor=executor):
        yield executor
