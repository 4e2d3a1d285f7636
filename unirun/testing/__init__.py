"""The contract of a backend in executable form: tests that every backend inherits.

    from unirun.testing import BackendTests

    class TestMyBackend(BackendTests):
        backend = "mine"          # as it is registered
        settings = {"url": "..."}  # more keywords for Executor(), if it needs any

Each test is one promise, and its name says which.  What a backend cannot do it does not declare
in its `capabilities`, and the tests that need it are skipped; no test looks at a backend's name.
Where a backend promises something else in the open, override that test.

Needs pytest; and only here, since worker processes import the functions that the tests submit.

`Simulator(seed)` drives the pure machines of the process backend and of shared objects in virtual
time, with faults; `invariants` states what must hold, in functions that any test may call.  Neither
needs pytest.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unirun.testing._backend import BackendTests as BackendTests
    from unirun.testing._gate import PATIENCE as PATIENCE
    from unirun.testing._gate import Gate as Gate
    from unirun.testing._simulator import Simulator as Simulator
    from unirun.testing._suite import lacks as lacks
    from unirun.testing._suite import needs as needs
else:
    _HOME = {
        "BackendTests": "_backend",
        "Gate": "_gate",
        "PATIENCE": "_gate",
        "Simulator": "_simulator",
        "lacks": "_suite",
        "needs": "_suite",
    }
    # Whoever inherits the tests wants to see what an assert compared.
    _REWRITTEN = "calls crashes ending failures futures gate kills limits maps payloads sharing"

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        if name != "Simulator":
            import sys

            import pytest

            names = {f"{__name__}._{each}" for each in _REWRITTEN.split()}
            # pytest warns of those that somebody has imported by their own names before.
            pytest.register_assert_rewrite(*names.difference(sys.modules))
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return value


__all__ = ["PATIENCE", "BackendTests", "Gate", "Simulator", "lacks", "needs"]
