"""Promises about a call: what can be submitted, what reaches it, what comes back."""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import pytest

import unirun
from unirun import Executor
from unirun.testing import _subjects as subjects
from unirun.testing._gate import PATIENCE, Gate
from unirun.testing._suite import Suite, lacks, needs

NAMES = (
    *("fn", "self", "function", "timeout", "priority", "key", "args", "kwargs", "name", "options"),
    *("kind", "backend", "retries", "chunksize", "executor", "future", "given", "on_part"),
)


class CallTests(Suite):
    # -- what comes back --------------------------------------------------------------------------

    def test_a_result_comes_back(self, common: Executor) -> None:
        """`result()` is what the function returned."""
        assert common.submit(subjects.square, 7).result(PATIENCE) == 49

    def test_an_exception_comes_back(self, common: Executor) -> None:
        """`result()` raises what the function raised: its type, and its args."""
        future = common.submit(subjects.fail, subjects.Refused("no", 7))
        with pytest.raises(subjects.Refused) as caught:
            future.result(PATIENCE)
        assert caught.value.args == ("no", 7)

    @pytest.mark.parametrize("value", [None, ..., NotImplemented, True, 0, "", (), b""])
    def test_empty_and_singular_values_come_back_as_they_are(
        self, common: Executor, value: object
    ) -> None:
        """Nothing is taken for "no result", and singletons stay the same object."""
        result = common.submit(subjects.same, value).result(PATIENCE)
        assert result == value
        assert type(result) is type(value)

    def test_an_exception_that_is_returned_is_a_result(self, common: Executor) -> None:
        """Only raising makes a failure."""
        future = common.submit(subjects.returned_error, subjects.Refused, "as a value")
        result = future.result(PATIENCE)
        assert isinstance(result, subjects.Refused)
        assert result.args == ("as a value",)
        assert future.exception(PATIENCE) is None

    def test_large_values_travel_both_ways(self, executor: Executor) -> None:
        """Far more bytes than any pipe holds; an executor may keep memory for the next ones."""
        data = os.urandom(1 << 10) * (1 << 12)
        futures = [executor.submit(subjects.same, data) for _ in range(3)]
        assert all(future.result(PATIENCE) == data for future in futures)

    def test_nested_data_travels_both_ways(self, common: Executor) -> None:
        """A hundred levels deep."""
        assert common.submit(subjects.nest, 100).result(PATIENCE) == subjects.nest(100)
        assert common.submit(subjects.depth_of, subjects.nest(100)).result(PATIENCE) == 100

    # -- what reaches the function ----------------------------------------------------------------

    def test_keywords_reach_the_function_whatever_their_names(self, common: Executor) -> None:
        """No keyword is taken for an option of ours."""
        given = {name: number for number, name in enumerate(NAMES)}
        assert common.submit(subjects.keywords, **given).result(PATIENCE) == given

    def test_arguments_arrive_in_their_order(self, common: Executor) -> None:
        """Positional and keyword arguments are kept apart."""
        future = common.submit(subjects.arguments, 3, 1, 2, z=1, a=2)
        args, kwargs = future.result(PATIENCE)
        assert args == (3, 1, 2)
        assert list(kwargs.items()) == [("z", 1), ("a", 2)]

    def test_an_object_given_twice_is_one_object(self, common: Executor) -> None:
        """Identity inside one call survives."""
        shared = [1]
        assert common.submit(subjects.are_one, shared, shared).result(PATIENCE) is True

    @lacks("sharedmem")
    def test_arguments_are_a_snapshot(self, single: Executor) -> None:
        """What the caller changes after `submit` does not reach the call, nor the other way."""
        argument = [1]
        future = single.submit(subjects.same, argument)
        argument.append(2)
        assert future.result(PATIENCE) == [1]
        assert future.result(PATIENCE) is not argument

    @needs("sharedmem")
    def test_arguments_and_results_are_the_very_objects(self, common: Executor) -> None:
        """Nothing is copied where memory is shared."""
        argument = [threading.Lock()]
        assert common.submit(subjects.same, argument).result(PATIENCE) is argument

    # -- what can be submitted --------------------------------------------------------------------

    def test_a_lambda_can_be_submitted(self, common: Executor) -> None:
        """Though pickle refuses it."""
        assert common.submit(lambda x: x + 1, 1).result(PATIENCE) == 2

    def test_a_closure_brings_what_it_captured(self, common: Executor) -> None:
        """As it was at `submit`; two closures of one function are told apart."""
        futures = [common.submit(_adding(base), 1) for base in (10, 20)]
        assert [future.result(PATIENCE) for future in futures] == [11, 21]

    def test_a_partial_can_be_submitted(self, common: Executor) -> None:
        """With what it holds."""
        assert common.submit(functools.partial(divmod, 7), 2).result(PATIENCE) == (3, 1)

    def test_methods_of_every_kind_can_be_submitted(self, common: Executor) -> None:
        """Bound, of the class, and static."""
        adder = subjects.Adder(10)
        assert common.submit(adder.add, 1).result(PATIENCE) == 11
        assert common.submit(subjects.Adder.made, 5).result(PATIENCE).base == 5
        assert common.submit(subjects.Adder.plain, 1).result(PATIENCE) == 2
        assert common.submit("a-b".split, "-").result(PATIENCE) == ["a", "b"]

    def test_a_callable_object_can_be_submitted(self, common: Executor) -> None:
        """With its state."""
        assert common.submit(subjects.Adder(10), 1).result(PATIENCE) == 11

    def test_builtins_and_classes_can_be_submitted(self, common: Executor) -> None:
        """Whatever can be called."""
        assert common.submit(sum, [1, 2]).result(PATIENCE) == 3
        assert common.submit(dict, a=1).result(PATIENCE) == {"a": 1}
        assert common.submit(subjects.Adder, 3).result(PATIENCE).base == 3

    def test_a_coroutine_function_is_run_to_its_end(self, common: Executor) -> None:
        """`async def` works everywhere; its result is the value, not a coroutine."""
        assert common.submit(subjects.square_later, 7).result(PATIENCE) == 49

    def test_a_coroutine_function_may_fail(self, common: Executor) -> None:
        """Its exception is the exception of the call."""
        with pytest.raises(subjects.Refused, match="later"):
            common.submit(subjects.fail_later, "later").result(PATIENCE)

    def test_what_cannot_be_called_is_a_type_error_of_that_future(self, common: Executor) -> None:
        """`submit` itself does not raise, and the error names the thing."""
        five: Any = 5
        future = common.submit(five, 1)
        with pytest.raises(TypeError, match="5 is not callable"):
            future.result(PATIENCE)
        assert self.still_works(common)

    def test_wrong_arguments_are_a_type_error_of_that_future(self, common: Executor) -> None:
        """As in a plain call, and nothing else suffers."""
        square: Any = subjects.square
        future = common.submit(square)
        with pytest.raises(TypeError, match="square"):
            future.result(PATIENCE)
        assert self.still_works(common)

    # -- many, and nested -------------------------------------------------------------------------

    def test_many_threads_may_submit_at_once(self, executor: Executor) -> None:
        """Every call is answered, and each caller gets its own answers."""
        wrong: list[Any] = []
        start = threading.Barrier(8, timeout=PATIENCE)

        def submit_some(base: int) -> None:
            start.wait()
            futures = [(n, executor.submit(subjects.square, n)) for n in range(base, base + 25)]
            wrong.extend(n for n, future in futures if future.result(PATIENCE) != n * n)

        threads = [threading.Thread(target=submit_some, args=(100 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert wrong == []
        assert self.stats(executor).finished == 200

    def test_calls_may_submit_calls_and_wait_for_them(self, common: Executor) -> None:
        """Deeper than there are workers."""
        assert common.submit(subjects.factorial, 6).result(PATIENCE) == 720

    @needs("cooperative")
    def test_calls_run_at_the_same_time(self, common: Executor, gate: Gate) -> None:
        """`max_workers` of them."""
        futures = [common.submit(subjects.hold, gate.address, n) for n in range(2)]
        for arrival in gate.arrivals(2):
            arrival.release()
        assert [future.result(PATIENCE) for future in futures] == [0, 1]

    @needs("cooperative")
    def test_never_more_run_at_once_than_there_are_workers(
        self, executor: Executor, gate: Gate
    ) -> None:
        """The third begins when one of the first two has ended."""
        futures = [executor.submit(subjects.hold, gate.address, n) for n in range(6)]
        present = gate.arrivals(2)
        for _ in range(4):
            assert gate.is_empty()
            assert self.stats(executor).running == 2
            present.pop(0).release()
            present.append(gate.arrival())
        gate.open()
        assert [future.result(PATIENCE) for future in futures] == list(range(6))

    @lacks("sharedmem")
    @needs("isolation")
    def test_calls_run_outside_the_process_of_the_caller(self, common: Executor) -> None:
        """An isolated call is in a process of its own kind."""
        assert common.submit(subjects.pid).result(PATIENCE) != os.getpid()

    # -- what a call knows about itself -----------------------------------------------------------

    def test_a_call_knows_what_it_is(self, common: Executor) -> None:
        """`current_task()` tells name, number, attempt, kind, backend, worker and deadline."""
        view = common.options(name="my call", kind="io")
        future = view.submit(subjects.identity)
        first = future.result(PATIENCE)
        second = view.submit(subjects.identity).result(PATIENCE)
        assert first["name"] == "my call"
        # What was decided, which is "async" for a coroutine function; not every `info` tells it.
        assert first["kind"] == (future.info.kind or "io")
        assert first["backend"] == self.engine.name
        assert first["attempt"] == 1
        assert first["deadline"] is None
        assert first["cancelled"] is False
        assert isinstance(first["worker"], str)
        assert first["id"] != second["id"]

    def test_a_call_is_named_after_its_function(self, common: Executor) -> None:
        """Unless it was given a name."""
        about = common.submit(subjects.identity).result(PATIENCE)
        assert about["name"] == "unirun.testing._subjects.identity"

    def test_outside_of_a_call_there_is_no_current_task(self, common: Executor) -> None:
        """Also after one has run in this thread."""
        common.submit(subjects.identity).result(PATIENCE)
        assert unirun.current_task() is None


def _adding(base: int) -> Any:
    return lambda x: base + x
