"""Promises about what cannot travel: one clear error on the one call it concerns."""

from __future__ import annotations

import pickle
from concurrent.futures.process import BrokenProcessPool

import pytest

from unirun import DeserializationError, Executor, SerializationError
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE
from unirun.testing._suite import Suite, lacks, needs

TOO_DEEP = 100_000


class PayloadTests(Suite):
    @lacks("sharedmem")
    def test_an_argument_that_cannot_be_pickled_ends_its_own_call(self, common: Executor) -> None:
        """`submit` does not raise; the error is pickle's, and a TypeError."""
        future = common.submit(subjects.same, subjects.unpicklable())
        error = future.exception(PATIENCE)
        assert isinstance(error, SerializationError)
        assert isinstance(error, pickle.PicklingError)
        assert isinstance(error, TypeError)
        assert self.still_works(common)

    @lacks("sharedmem")
    def test_the_error_names_the_path_to_what_cannot_be_pickled(self, common: Executor) -> None:
        """Through containers and attributes, down to the leaf."""
        adder = subjects.Adder({"it": [1, subjects.unpicklable()]})  # type: ignore[arg-type]
        error = common.submit(subjects.arguments, 1, box={"adder": adder}).exception(PATIENCE)
        assert "kwargs['box']['adder'].base['it'][1]" in str(error)
        error = common.submit(subjects.arguments, 1, [adder]).exception(PATIENCE)
        assert "args[1][0].base['it'][1]" in str(error)

    @lacks("sharedmem")
    def test_the_error_names_what_a_closure_captured(self, common: Executor) -> None:
        """By the name of the variable."""
        culprit = subjects.unpicklable()
        error = common.submit(lambda: culprit).exception(PATIENCE)
        assert isinstance(error, SerializationError)
        assert "<closure culprit>" in str(error)

    @lacks("sharedmem")
    def test_an_executor_as_result_or_a_future_as_argument_is_a_clear_error(
        self, common: Executor
    ) -> None:
        """On the future of that call, saying what to do instead."""
        error = common.submit(subjects.same, common).exception(PATIENCE)
        assert isinstance(error, TypeError)
        assert "an Executor cannot be pickled; hand it to a call as an argument" in str(error)
        done = common.submit(subjects.square, 2)
        error = common.submit(subjects.same, [done]).exception(PATIENCE)
        assert isinstance(error, TypeError)
        assert "a Future cannot be pickled; send its result() instead" in str(error)

    def test_an_executor_cannot_be_pickled(self, common: Executor) -> None:
        """A TypeError that says what to do instead, also for a view with options."""
        with pytest.raises(TypeError, match="an Executor cannot be pickled"):
            pickle.dumps(common)
        with pytest.raises(TypeError, match="an Executor cannot be pickled"):
            pickle.dumps(common.options(timeout=5))

    @lacks("sharedmem")
    def test_an_argument_that_exits_while_it_is_pickled_ends_only_its_call(
        self, common: Executor
    ) -> None:
        """`sys.exit` in a `__reduce__` ends neither the program nor a worker."""
        error = common.submit(subjects.same, subjects.Exits()).exception(PATIENCE)
        assert isinstance(error, SerializationError)
        assert "args[0]" in str(error)
        assert self.still_works(common)

    @lacks("sharedmem")
    def test_data_too_deep_for_pickle_ends_only_its_call(self, common: Executor) -> None:
        """As argument and as result; the interpreter survives."""
        error = common.submit(subjects.depth_of, subjects.nest(TOO_DEEP)).exception(PATIENCE)
        assert isinstance(error, SerializationError)
        assert isinstance(
            common.submit(subjects.nest, TOO_DEEP).exception(PATIENCE), SerializationError
        )
        assert self.still_works(common)

    @lacks("sharedmem")
    def test_an_argument_that_cannot_be_unpickled_ends_its_own_call(self, common: Executor) -> None:
        """With a BrokenProcessPool, as in the standard library, but nothing is broken."""
        error = common.submit(subjects.same, subjects.Raises()).exception(PATIENCE)
        assert isinstance(error, DeserializationError)
        assert isinstance(error, BrokenProcessPool)
        assert "Refused: unpickled" in str(error)
        assert isinstance(error.__cause__, subjects.Refused)
        assert self.still_works(common)

    @lacks("sharedmem")
    def test_an_argument_that_exits_while_it_is_unpickled_ends_only_its_call(
        self, common: Executor
    ) -> None:
        """The worker lives on."""
        future = common.submit(subjects.same, subjects.Raises(SystemExit))
        assert isinstance(future.exception(PATIENCE), DeserializationError)
        assert self.still_works(common)

    @lacks("sharedmem")
    def test_a_result_that_cannot_be_pickled_ends_its_own_call(self, common: Executor) -> None:
        """The error names the result, and where in it."""
        error = common.submit(subjects.returned_unpicklable).exception(PATIENCE)
        assert isinstance(error, SerializationError)
        assert "result" in str(error)
        assert "[1]" in str(error)
        assert self.still_works(common)

    @pytest.mark.parametrize("error", [subjects.Refused, SystemExit])
    @lacks("sharedmem")
    def test_a_result_that_cannot_be_unpickled_ends_its_own_call(
        self, common: Executor, error: type[BaseException]
    ) -> None:
        """Whatever it raises in the caller's process, it ends nothing there."""
        raised = common.submit(subjects.make_raises, error).exception(PATIENCE)
        assert isinstance(raised, DeserializationError)
        assert isinstance(raised, BrokenProcessPool)
        assert type(raised.__cause__) is error
        assert self.still_works(common)

    @needs("isolation")
    def test_an_interrupt_while_something_is_unpickled_ends_only_its_call(
        self, common: Executor
    ) -> None:
        """One that is raised by what is unpickled is no Ctrl-C, there or here."""
        there = common.submit(subjects.same, subjects.Raises(KeyboardInterrupt))
        here = common.submit(subjects.make_raises, KeyboardInterrupt)
        for future in (there, here):
            error = future.exception(PATIENCE)
            assert isinstance(error, DeserializationError)
            assert type(error.__cause__) is KeyboardInterrupt
        assert self.still_works(common)

    @lacks("sharedmem")
    def test_what_cannot_travel_harms_no_call_beside_it(self, common: Executor) -> None:
        """Good and bad ones mixed: each gets what is its own."""
        bad = (subjects.unpicklable(), subjects.Exits(), subjects.Raises())
        futures = []
        for n in range(20):
            futures.append(common.submit(subjects.square, n))
            common.submit(subjects.same, bad[n % 3])
            common.submit(subjects.make_raises, SystemExit)
        assert [future.result(PATIENCE) for future in futures] == [n * n for n in range(20)]
