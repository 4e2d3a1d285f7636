"""All groups of promises together: the class that the tests of a backend inherit."""

from __future__ import annotations

from unirun.testing._calls import CallTests
from unirun.testing._crashes import CrashTests
from unirun.testing._ending import EndingTests
from unirun.testing._failures import FailureTests
from unirun.testing._futures import FutureTests
from unirun.testing._kills import KillTests
from unirun.testing._limits import LimitTests
from unirun.testing._maps import MapTests
from unirun.testing._payloads import PayloadTests
from unirun.testing._sharing import SharingTests

__all__ = ["BackendTests"]


class BackendTests(
    CallTests,
    FutureTests,
    FailureTests,
    PayloadTests,
    EndingTests,
    MapTests,
    LimitTests,
    KillTests,
    CrashTests,
    SharingTests,
):
    """What every backend promises; see `unirun.testing` for how to use it."""


BackendTests.__module__ = "unirun.testing"
