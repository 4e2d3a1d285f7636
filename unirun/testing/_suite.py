"""What all groups of tests stand on: how to make an executor, and which tests apply."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import pytest

from unirun import Executor, _registry
from unirun.backend import Backend, Stats
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate

__all__ = ["Suite", "lacks", "needs"]

Test = TypeVar("Test", bound=Callable[..., None])


def needs(*flags: str) -> Callable[[Test], Test]:
    """The test is for backends that have all of these capabilities."""
    return _mark("needs", flags)


def lacks(*flags: str) -> Callable[[Test], Test]:
    """The test is for backends that have none of these capabilities."""
    return _mark("lacks", flags)


def _mark(name: str, flags: tuple[str, ...]) -> Callable[[Test], Test]:
    def mark(test: Test) -> Test:
        setattr(test, name, flags)
        return test

    return mark


class Suite:
    """Base of the groups; `unirun.testing.BackendTests` is all of them together."""

    backend: ClassVar[str]
    """The name of the backend."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """More keywords for each `Executor()`."""

    def make_executor(self, max_workers: int | None = 2, **settings: Any) -> Executor:
        """A new executor on the backend under test; override it if that takes more."""
        return Executor(max_workers, backend=self.backend, **{**self.settings, **settings})

    @property
    def engine(self) -> type[Backend]:
        """The class under test."""
        return _registry.load(self.backend)

    @property
    def capabilities(self) -> frozenset[str]:
        """What decides which tests apply."""
        return self.engine.capabilities

    _common: ClassVar[Executor]

    @classmethod
    def setup_class(cls) -> None:
        cls._common = cls()._make_common()

    @classmethod
    def teardown_class(cls) -> None:
        cls._common.shutdown(timeout=PATIENCE, kill=True)

    def _make_common(self) -> Executor:
        """Nothing is left to be started when a test begins, so that each can be seen to tidy up."""
        # Nor do workers that had nothing to do for long end, and are started again in some test.
        executor = self.make_executor(idle_timeout=None)
        called_back = threading.Event()
        if "cooperative" in self.capabilities:
            with Gate() as gate:
                futures = [executor.submit(subjects.hold, gate.address) for _ in range(2)]
                futures[0].add_done_callback(lambda _: called_back.set())
                gate.arrivals(2)
            assert called_back.wait(PATIENCE)
        return executor

    @pytest.fixture
    def common(self, gate: Gate) -> Iterator[Executor]:
        """Two workers, for the tests of a class that leave an executor as they found it."""
        yield self._common
        gate.open()
        try:
            assert self.still_works(self._common)
        except BaseException:
            type(self)._common = self._make_common()
            raise

    @pytest.fixture
    def executor(self, gate: Gate) -> Iterator[Executor]:
        """Two workers, for this test alone."""
        with self.ended(gate, self.make_executor()) as executor:
            yield executor

    @pytest.fixture
    def single(self, gate: Gate) -> Iterator[Executor]:
        """One worker: of two calls, one waits."""
        with self.ended(gate, self.make_executor(1)) as executor:
            yield executor

    @contextmanager
    def ended(self, gate: Gate, executor: Executor) -> Iterator[Executor]:
        """Opens the gate and ends `executor` at the end; a call that hangs is not waited for."""
        with executor:
            try:
                yield executor
            finally:
                gate.open()
                executor.shutdown(timeout=PATIENCE, kill=True)

    @pytest.fixture
    def gate(self) -> Iterator[Gate]:
        """Where calls wait; opened at the end, so that none waits for ever."""
        with Gate() as gate:
            yield gate

    @pytest.fixture(autouse=True)
    def _skip_what_does_not_apply(self, request: pytest.FixtureRequest) -> None:
        has = {str(flag) for flag in self.capabilities}
        for flag in getattr(request.function, "needs", ()):
            if flag not in has:
                pytest.skip(f"the backend does not declare {flag!r}")
        for flag in getattr(request.function, "lacks", ()):
            if flag in has:
                pytest.skip(f"the backend declares {flag!r}")

    def stats(self, executor: Executor) -> Stats:
        return executor.stats()[self.backend]

    def still_works(self, executor: Executor) -> bool:
        """Whether both workers of `executor` take calls and answer."""
        futures = [executor.submit(divmod, 7, 2) for _ in range(4)]
        return [future.result(PATIENCE) for future in futures] == [(3, 1)] * 4
