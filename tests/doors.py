"""What the test files about a manager's door share: a manager in each place, and a good client."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from parties import ProcessParty, process_parties
from places import FAMILIES, PLACES, AnyManager, manager_in

from unirun._manager import Manager
from unirun.sync import make_shared


@pytest.fixture(params=PLACES, ids="-".join)
def manager(request: pytest.FixtureRequest) -> Iterator[AnyManager]:
    manager = manager_in(*request.param)
    yield manager
    manager.close()


@pytest.fixture(params=FAMILIES)
def thread_manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    """One whose patience a test can shorten."""
    manager = Manager(family=request.param)
    yield manager
    manager.close()


@pytest.fixture
def make(manager: AnyManager) -> Callable[..., Any]:
    return lambda kind, *args, **kwargs: make_shared(manager, kind, *args, **kwargs)


@pytest.fixture(scope="module")
def party() -> Iterator[ProcessParty]:
    """Whoever has good intentions; for all tests, since it dies in none."""
    with process_parties(1) as [party]:
        yield party


@pytest.fixture(autouse=True)
def up_before(party: ProcessParty) -> None:
    """Not taken for what a test leaves behind."""
