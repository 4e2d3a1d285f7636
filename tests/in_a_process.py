"""Fixtures for a file whose tests are to be run with the manager in a process of its own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from parties import Mapping, ProcessParty

from unirun._manager_process import ManagerProcess
from unirun.sync import make_shared


@pytest.fixture(scope="module", autouse=True)
def manager(served_by: str) -> Iterator[ManagerProcess]:
    """For all tests; the connections that outlive a test are there before the first."""
    manager = ManagerProcess()
    make_shared(manager, "Event").set()
    yield manager
    manager.close()


@pytest.fixture(params=["home", "processes"])
def mapping(
    request: pytest.FixtureRequest, make: Callable[..., Any], processes: list[ProcessParty]
) -> Mapping:
    """Those to whom it makes a difference."""
    return Mapping(make, processes if request.param == "processes" else None)
