"""For tests of how long shared objects live.

They make LINGER short, and a test that something is kept alive goes on only when another object,
which nobody refers to, is gone: so it is not since it is on its way that it lives.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator

import pytest
from parties import wait_until

from unirun import _references
from unirun._manager import Manager
from unirun.sync import make_shared


def linger_for(seconds: float, patch: pytest.MonkeyPatch) -> None:
    """Have what has left its process linger for so long, whoever it went to."""
    patch.setattr(_references, "LINGER", seconds)
    patch.setattr(_references, "START_LINGER", seconds)


@contextlib.contextmanager
def outlasting() -> Iterator[Callable[[], None]]:
    """A function that waits for longer than LINGER, by the clock of a manager of its own."""
    own = Manager()

    def wait() -> None:
        pickle.dumps(make_shared(own, "Event"))
        wait_until(lambda: own.objects == 0)

    yield wait
    own.close()
