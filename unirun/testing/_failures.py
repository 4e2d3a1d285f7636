"""Promises about exceptions: they arrive as they were raised, with all that hangs on them."""

from __future__ import annotations

import concurrent.futures
import pickle
import traceback

import pytest

from unirun import Executor, RemoteError, TaskCancelled
from unirun.testing import _subjects as subjects
from unirun.testing._frozen import FrozenError
from unirun.testing._gate import PATIENCE
from unirun.testing._suite import Suite, needs


class FailureTests(Suite):
    # -- what hangs on them -----------------------------------------------------------------------

    def test_a_cause_arrives(self, common: Executor) -> None:
        """`raise ... from ...`: the cause is the exception it was."""
        error = common.submit(subjects.fail_from_a_cause).exception(PATIENCE)
        assert isinstance(error, subjects.Refused)
        assert isinstance(error.__cause__, KeyError)
        assert error.__cause__.args == ("missing",)
        assert error.__suppress_context__ is True

    def test_a_context_arrives(self, common: Executor) -> None:
        """Of an exception raised while another was handled; it is not made a cause."""
        error = common.submit(subjects.fail_in_a_context).exception(PATIENCE)
        assert isinstance(error, subjects.Refused)
        assert error.__cause__ is None
        assert isinstance(error.__context__, KeyError)
        assert error.__suppress_context__ is False

    def test_a_suppressed_context_stays_suppressed(self, common: Executor) -> None:
        """`raise ... from None`."""
        error = common.submit(subjects.fail_from_none).exception(PATIENCE)
        assert isinstance(error, subjects.Refused)
        assert error.__cause__ is None
        assert error.__suppress_context__ is True

    def test_a_cause_that_cannot_be_rebuilt_spoils_nothing(self, common: Executor) -> None:
        """The exception itself arrives whole, the cause as well as it can."""
        error = common.submit(subjects.fail_from_something_unpicklable).exception(PATIENCE)
        assert type(error) is subjects.Refused
        assert isinstance(error.__cause__, subjects.Holder)
        assert "inner" in str(error.__cause__)

    def test_notes_arrive(self, common: Executor) -> None:
        """Those of `add_note`, in their order."""
        error = common.submit(subjects.fail_with_notes).exception(PATIENCE)
        assert error is not None
        assert error.__notes__[:2] == ["first note", "second note"]

    def test_attributes_arrive(self, common: Executor) -> None:
        """Those an exception was given after it was made."""
        error = common.submit(subjects.fail_with_attributes).exception(PATIENCE)
        told = {name: value for name, value in vars(error).items() if name != "__notes__"}
        assert told == {"code": 7, "detail": {"a": [1]}}

    def test_a_group_arrives_with_all_its_members(self, common: Executor) -> None:
        """Nested, and with members that pickle cannot rebuild; `except*` finds them."""
        error = common.submit(subjects.fail_as_a_group).exception(PATIENCE)
        assert isinstance(error, ExceptionGroup)
        assert error.message == "outer"
        refused, inner = error.exceptions
        assert type(refused) is subjects.Refused
        assert isinstance(inner, ExceptionGroup)
        assert isinstance(inner.exceptions[0], subjects.TwoArguments)
        assert isinstance(inner.exceptions[1], subjects.Holder)
        assert error.subgroup(subjects.TwoArguments) is not None

    # -- exceptions that break other pools ---------------------------------------------------------

    def test_an_exception_with_two_arguments_arrives(self, common: Executor) -> None:
        """Its class, its text and its attributes, although pickle cannot rebuild it."""
        future = common.submit(subjects.fail_with, subjects.TwoArguments, 7, "no such day")
        with pytest.raises(subjects.TwoArguments) as caught:
            future.result(PATIENCE)
        assert "7: no such day" in str(caught.value)
        assert (caught.value.code, caught.value.reason) == (7, "no such day")
        assert self.still_works(common)

    @needs("isolation")
    def test_an_exception_that_cannot_be_rebuilt_is_a_remote_error_too(
        self, common: Executor
    ) -> None:
        """It is an instance of the original class and of RemoteError, and names the original."""
        error = common.submit(subjects.fail_with, subjects.LockInArguments).exception(PATIENCE)
        assert isinstance(error, RemoteError)
        assert isinstance(error, subjects.LockInArguments)
        assert error.type_name == "unirun.testing._subjects.LockInArguments"
        assert "fail_with" in error.traceback_text
        assert isinstance(pickle.loads(pickle.dumps(error)), subjects.LockInArguments)

    def test_an_exception_with_keywords_only_arrives(self, common: Executor) -> None:
        """As its class."""
        future = common.submit(subjects.fail_with, subjects.KeywordOnly, code=7)
        error = future.exception(PATIENCE)
        assert isinstance(error, subjects.KeywordOnly)
        assert error.code == 7

    def test_a_frozen_dataclass_arrives_as_itself(self, common: Executor) -> None:
        """The very type, though it refuses every attribute that is set later."""
        future = common.submit(subjects.fail_with, FrozenError, 7, "frozen")
        error = future.exception(PATIENCE)
        assert type(error) is FrozenError
        assert (error.code, error.reason) == (7, "frozen")
        assert self.still_works(common)

    def test_an_exception_that_holds_a_lock_arrives(self, common: Executor) -> None:
        """Its class, its text and what else of it pickles."""
        error = common.submit(subjects.fail_with, subjects.Holder, "locked").exception(PATIENCE)
        assert isinstance(error, subjects.Holder)
        assert "locked" in str(error)
        assert error.text == "locked"

    def test_an_exception_with_a_lock_in_its_args_arrives(self, common: Executor) -> None:
        """As its class, with its text."""
        error = common.submit(subjects.fail_with, subjects.LockInArguments).exception(PATIENCE)
        assert isinstance(error, subjects.LockInArguments)
        assert "locked" in str(error)
        assert self.still_works(common)

    def test_an_exception_without_a_text_arrives(self, common: Executor) -> None:
        """Though its `__str__` raises."""
        error = common.submit(subjects.fail_with, subjects.BrokenText).exception(PATIENCE)
        assert isinstance(error, subjects.BrokenText)
        assert self.still_works(common)

    def test_an_exception_of_a_local_class_arrives(self, common: Executor) -> None:
        """`except` with the class that the caller sees catches it."""

        class Local(Exception):
            pass

        with pytest.raises(Local, match="here"):
            common.submit(subjects.fail_with, Local, "here").result(PATIENCE)

    def test_endless_recursion_is_an_exception_as_any_other(self, common: Executor) -> None:
        """And its traceback can be formatted."""
        error = common.submit(subjects.recurse_without_end).exception(PATIENCE)
        assert isinstance(error, RecursionError)
        assert "recurse_without_end" in "".join(traceback.format_exception(error))
        assert self.still_works(common)

    # -- exceptions that end other things than a call ----------------------------------------------

    @pytest.mark.parametrize(
        "error", [KeyboardInterrupt, GeneratorExit, SystemExit, subjects.Leaving]
    )
    def test_an_exception_that_is_no_exception_ends_only_its_call(
        self, common: Executor, error: type[BaseException]
    ) -> None:
        """The worker lives on, and so does whoever asks for the result of another call."""
        future = common.submit(subjects.fail_with, error, "raised by a task")
        raised = future.exception(PATIENCE)
        assert type(raised) is error
        assert raised.args == ("raised by a task",)
        assert self.still_works(common)

    def test_the_code_of_a_system_exit_arrives(self, common: Executor) -> None:
        """`sys.exit(3)` in a task is that task's exception."""
        error = common.submit(subjects.fail_with, SystemExit, 3).exception(PATIENCE)
        assert isinstance(error, SystemExit)
        assert error.code == 3

    def test_a_time_out_error_of_the_task_is_its_exception(self, common: Executor) -> None:
        """The future is done, and nobody takes it for a wait that timed out."""
        future = common.submit(subjects.fail_with, TimeoutError, "the task's own")
        assert type(future.exception(PATIENCE)) is TimeoutError
        assert future.done()

    def test_a_cancelled_error_of_the_task_is_its_exception(self, common: Executor) -> None:
        """It failed; it was not cancelled."""
        future = common.submit(subjects.fail_with, TaskCancelled, "the task's own")
        assert isinstance(future.exception(PATIENCE), concurrent.futures.CancelledError)
        assert not future.cancelled()

    # -- tracebacks -------------------------------------------------------------------------------

    def test_a_traceback_shows_the_frames_of_the_task(self, common: Executor) -> None:
        """With file, line, function and source, as if the call had been a plain one."""
        error = common.submit(subjects.fail_deep_inside).exception(PATIENCE)
        text = "".join(traceback.format_exception(error))
        assert "in fail_deep_inside" in text
        assert "in _inner_step" in text
        assert "the line that a traceback must show" in text
        assert text.index("in fail_deep_inside") < text.index("in _inner_step")
        assert traceback.extract_tb(error.__traceback__)[-1].filename == subjects.__file__  # type: ignore[union-attr]

    def test_a_traceback_does_not_show_how_we_called_the_task(self, common: Executor) -> None:
        """The first frame is the user's."""
        error = common.submit(subjects.fail_deep_inside).exception(PATIENCE)
        assert error is not None
        assert traceback.extract_tb(error.__traceback__)[0].name == "fail_deep_inside"

    def test_a_traceback_of_a_cause_arrives(self, common: Executor) -> None:
        """Both are in the text, in their order."""
        error = common.submit(subjects.fail_from_a_cause).exception(PATIENCE)
        text = "".join(traceback.format_exception(error))
        assert "direct cause of the following exception" in text
        assert text.index("KeyError: 'missing'") < text.index("Refused: outer")
        assert text.count("in fail_from_a_cause") == 2
