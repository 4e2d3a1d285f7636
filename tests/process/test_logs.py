"""Records and warnings of worker processes: handled by the program's own loggers and filters."""

import logging
import logging.handlers
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process import tellers
from process.line import PATIENCE

import unirun

Pool = Callable[..., unirun.Executor]


class Kept(logging.Handler):
    """Keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)  # as any handler that shows it
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture(scope="module")
def executor() -> Iterator[unirun.Executor]:
    """One worker for all these tests, which has told something before."""
    with unirun.Executor(1, backend="process") as made:
        made.submit(tellers.log, "warm.up", logging.WARNING, "up").result(PATIENCE)
        yield made


@pytest.fixture
def spam() -> Iterator[Kept]:
    """The handler of a logger "spam", with level INFO."""
    logger, handler = logging.getLogger("spam"), Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def run(executor: unirun.Executor, fn: Callable[..., Any], *args: Any, **named: Any) -> Any:
    return executor.submit(fn, *args, **named).result(PATIENCE)


def test_a_record_reaches_the_logger_of_its_name_with_task_and_worker(
    executor: unirun.Executor, spam: Kept
) -> None:
    future = executor.submit(tellers.log, "spam", logging.INFO, "%s and %d", "egg", 7)
    future.result(PATIENCE)
    (record,) = spam.records
    assert record.getMessage() == "egg and 7"
    assert (record.msg, record.args) == ("%s and %d", ("egg", 7))
    assert (record.name, record.levelname) == ("spam", "INFO")
    assert (record.funcName, record.filename) == ("log", "tellers.py")
    assert record.__dict__["unirun_task"] == "process.tellers.log"
    assert record.__dict__["unirun_worker"] == f"pid {record.process}"


def test_a_million_is_not_needed_to_see_that_none_is_lost(
    executor: unirun.Executor, spam: Kept
) -> None:
    run(executor, tellers.log_many, "spam", 2000)
    assert spam.messages == [str(number) for number in range(2000)]


def test_child_loggers_use_the_handlers_of_their_parents(
    executor: unirun.Executor, spam: Kept
) -> None:
    run(executor, tellers.log, "spam.egg", logging.INFO, "child")
    assert spam.messages == ["child"]


def test_what_the_level_keeps_back_here_is_kept_back_there(
    executor: unirun.Executor, spam: Kept
) -> None:
    run(executor, tellers.log, "spam", logging.DEBUG, "no")
    assert run(executor, tellers.level_of, "spam.new") == (logging.INFO, True)
    assert spam.records == []


def test_changes_of_levels_are_followed_at_the_next_call(
    executor: unirun.Executor, spam: Kept
) -> None:
    assert run(executor, tellers.level_of, "spam.later") == (logging.INFO, True)
    logging.getLogger("spam").setLevel(logging.ERROR)
    assert run(executor, tellers.level_of, "spam.later") == (logging.ERROR, True)
    logging.getLogger("spam.later").setLevel(logging.DEBUG)
    assert run(executor, tellers.level_of, "spam.later") == (logging.DEBUG, True)
    logging.getLogger("spam.later").setLevel(logging.NOTSET)
    assert run(executor, tellers.level_of, "spam.later") == (logging.ERROR, True)


def test_logging_that_is_disabled_here_is_disabled_there(executor: unirun.Executor) -> None:
    logging.disable(logging.CRITICAL)
    try:
        assert run(executor, tellers.level_of, "spam")[1] is False
    finally:
        logging.disable(logging.NOTSET)
    assert run(executor, tellers.level_of, "spam")[1] is True


def test_a_logger_that_is_disabled_here_says_nothing(executor: unirun.Executor, spam: Kept) -> None:
    logger = logging.getLogger("spam")
    logger.disabled = True
    try:
        run(executor, tellers.log, "spam", logging.ERROR, "no")
        assert spam.records == []
    finally:
        logger.disabled = False
    run(executor, tellers.log, "spam", logging.ERROR, "yes")
    assert spam.messages == ["yes"]


def test_a_level_that_a_task_sets_there_stays(executor: unirun.Executor, spam: Kept) -> None:
    run(executor, tellers.set_level, "spam.own", logging.CRITICAL)
    logging.getLogger("spam.other").setLevel(logging.DEBUG)  # so that levels are sent
    assert run(executor, tellers.level_of, "spam.own")[0] == logging.CRITICAL
    logging.getLogger("spam.other").setLevel(logging.NOTSET)


def test_an_exception_comes_as_text_and_as_itself(executor: unirun.Executor, spam: Kept) -> None:
    run(executor, tellers.log_an_exception, "spam")
    (record,) = spam.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError
    assert record.exc_text is not None
    assert "in log_an_exception" in record.exc_text
    assert record.stack_info is not None
    assert "log_an_exception" in record.stack_info


def test_what_cannot_be_pickled_comes_as_text(executor: unirun.Executor, spam: Kept) -> None:
    run(executor, tellers.log_what_cannot_be_pickled, "spam")
    (record,) = spam.records
    assert record.getMessage() == "it is closed for today"
    assert record.__dict__["spam"] == "closed for today"
    assert record.__dict__["egg"] == [1]


def test_a_null_handler_of_a_library_takes_nothing(executor: unirun.Executor, spam: Kept) -> None:
    run(executor, tellers.log_in_a_library, "spam.library")
    assert spam.messages == ["from a library"]


def test_a_handler_that_a_task_installs_is_used_instead(
    executor: unirun.Executor, spam: Kept, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    run(executor, tellers.log_to_own_handler, "spam", str(path))
    assert path.read_text() == "mine\n"
    assert spam.records == []


def test_who_sends_records_by_a_queue_of_his_own_gets_them_once(
    executor: unirun.Executor, spam: Kept
) -> None:
    with multiprocessing.Manager() as manager:
        queue = manager.Queue()
        run(executor, tellers.log_by_own_queue, "spam", queue)
        listener = logging.handlers.QueueListener(queue, spam)
        listener.start()
        listener.stop()
    assert spam.messages == ["by my own queue"]


def test_the_record_factory_of_the_program_is_used(executor: unirun.Executor, spam: Kept) -> None:
    before = logging.getLogRecordFactory()

    def make(*args: Any, **named: Any) -> logging.LogRecord:
        record = before(*args, **named)
        record.egg = "factory"
        return record

    logging.setLogRecordFactory(make)
    try:
        run(executor, tellers.log, "spam", logging.INFO, "made")
    finally:
        logging.setLogRecordFactory(before)
    assert spam.records[0].__dict__["egg"] == "factory"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_handlers_that_a_forked_worker_inherits_do_not_run_there(pool: Pool, spam: Kept) -> None:
    executor = pool(1, "fork")
    assert run(executor, tellers.handlers_here) == 0
    run(executor, tellers.log, "spam", logging.INFO, "once")
    assert spam.messages == ["once"]


def test_a_worker_that_is_to_keep_its_records_does(pool: Pool, spam: Kept) -> None:
    executor = pool(1, logs=False)
    run(executor, tellers.log, "spam", logging.WARNING, "there")
    assert spam.records == []


def test_the_filter_names_the_task_on_threads() -> None:
    handler = Kept()
    handler.addFilter(unirun.TaskFilter())
    handler.setFormatter(logging.Formatter("%(unirun_task)s %(unirun_worker)s %(message)s"))
    logger = logging.getLogger("spam.thread")
    logger.addHandler(handler)
    try:
        with unirun.Executor(1, backend="thread", thread_name_prefix="egg") as executor:
            run(executor, tellers.log, "spam.thread", logging.ERROR, "here")
        logger.error("outside")
    finally:
        logger.removeHandler(handler)
    inside, outside = handler.records
    assert handler.format(inside) == "process.tellers.log egg_0 here"
    assert handler.format(outside) == " MainThread outside"


# -- warnings -------------------------------------------------------------------------------------


def test_a_warning_is_seen_here_with_category_file_and_line(executor: unirun.Executor) -> None:
    with pytest.warns(tellers.OwnWarning, match="spam") as found:
        run(executor, tellers.warn, "spam", tellers.OwnWarning)
    (warning,) = found
    assert warning.filename == tellers.__file__
    assert (
        Path(tellers.__file__)
        .read_text()
        .splitlines()[warning.lineno - 1]
        .strip()
        .startswith("warnings.warn(text, category")
    )


def test_a_filter_that_makes_errors_of_warnings_raises_in_the_task(
    executor: unirun.Executor,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        future = executor.submit(tellers.warn, "spam", FutureWarning)
        assert isinstance(future.exception(PATIENCE), FutureWarning)


def test_a_warning_that_is_ignored_here_is_ignored(executor: unirun.Executor) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "spam.*")
        run(executor, tellers.warn, "spam and egg")
        run(executor, tellers.warn, "egg")
    assert [str(each.message) for each in found] == ["egg"]


def test_a_warning_is_shown_once_in_the_whole_program(pool: Pool) -> None:
    executor = pool(2)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(6):
            unirun_futures = [executor.submit(tellers.warn, "again") for _ in range(2)]
            for future in unirun_futures:
                future.result(PATIENCE)
    assert [str(each.message) for each in found] == ["again"]


def test_a_task_that_records_its_warnings_has_them(executor: unirun.Executor) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert run(executor, tellers.warn_and_record, "mine") == 1
    assert found == []


def test_warnings_become_records_where_the_program_says_so(
    executor: unirun.Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        try:
            run(executor, tellers.warn, "to the log")
        finally:
            logging.captureWarnings(False)
    assert [record.name for record in caplog.records] == ["py.warnings"]
