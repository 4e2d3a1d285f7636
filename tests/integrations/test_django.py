"""Django's tasks on unirun, by the contract of `django.tasks`: with the real package."""

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from integrations.waiting import eventually

import unirun

if sys.version_info < (3, 12):
    pytest.skip("Django 6 needs Python 3.12", allow_module_level=True)
django = pytest.importorskip(
    "django", minversion="6.0", reason="Django 6 is not installed: make test-integrations"
)

pytestmark = pytest.mark.integrations
PATIENCE = 30.0
Told = list[tuple[str, str]]


@pytest.fixture(scope="module", autouse=True)
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set up once: Django can be set up for one site in a process."""
    directory = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_SETTINGS_MODULE", "apps.site_of_tasks.settings")
        patch.setenv("DIRECTORY_OF_SITE", str(directory))
        django.setup()
        yield directory


@pytest.fixture(autouse=True)
def offices() -> Iterator[None]:
    """Those of a test end with it."""
    yield
    from unirun.integrations import django as ours

    for office in ours._offices.values():
        office.executor.shutdown(kill=office.executor._chooser.fixed != "thread")
    ours._offices.clear()


@pytest.fixture
def tasks() -> Any:
    from apps.site_of_tasks import tasks

    return tasks


def backend(alias: str = "default") -> Any:
    from django.tasks import task_backends

    return task_backends[alias]


def outcome(task: Any, *args: Any, **kwargs: Any) -> Any:
    """Its result, finished."""
    result = task.enqueue(*args, **kwargs)
    return task.get_backend().wait(result.id, PATIENCE)


@pytest.fixture
def told() -> Iterator[Told]:
    """The signals that were sent, in order."""
    from django.tasks import signals

    found: Told = []
    receivers = []
    for name in ("task_enqueued", "task_started", "task_finished"):

        def receive(sender: Any, task_result: Any, name: str = name, **_: Any) -> None:
            assert sender.__name__ == "UnirunBackend"
            found.append((name, str(task_result.status)))

        getattr(signals, name).connect(receive)
        receivers.append((name, receive))
    yield found
    for name, receive in receivers:
        getattr(signals, name).disconnect(receive)


# -- results ---------------------------------------------------------------------------------------


def test_a_task_runs_in_a_worker_process_and_its_result_is_found(tasks: Any) -> None:
    result = tasks.add.enqueue(2, b=3)
    assert (result.status, result.is_finished, result.backend) == ("READY", False, "default")

    backend().wait(result.id, PATIENCE)
    result.refresh()

    assert (result.status, result.return_value, result.errors) == ("SUCCESSFUL", 5, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert (result.attempts, result.args, result.kwargs) == (1, [2], {"b": 3})
    assert outcome(tasks.pid).return_value != os.getpid()


def test_a_result_is_found_by_its_id_and_only_by_its_task(tasks: Any) -> None:
    from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch

    result = outcome(tasks.add, 1)

    assert tasks.add.get_result(result.id).return_value == 2
    with pytest.raises(TaskResultMismatch):
        tasks.fail.get_result(result.id)
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result("nobody's")


def test_any_thread_finds_the_result_and_the_same_workers(tasks: Any) -> None:
    result = outcome(tasks.pid)
    seen: list[Any] = []
    thread = threading.Thread(
        target=lambda: seen.extend([tasks.pid.get_result(result.id), backend().executor])
    )
    thread.start()
    thread.join()

    assert seen[0].return_value == result.return_value
    assert seen[1] is backend().executor


@pytest.mark.leaks("asgiref keeps the thread that it has made for coroutines")
def test_coroutines_are_tasks_and_may_enqueue(tasks: Any) -> None:
    async def program() -> Any:
        result = await tasks.doubled.aenqueue(21)
        while not result.is_finished:
            await asyncio.sleep(0.01)
            await result.arefresh()
        return result.return_value

    assert asyncio.run(asyncio.wait_for(program(), PATIENCE)) == 42


def test_a_task_sees_its_context(tasks: Any) -> None:
    result = outcome(tasks.look_around, "word")

    assert result.return_value == [1, result.id, "RUNNING", ["word"], "word", 1]


def test_arguments_and_results_that_are_not_json_are_refused(tasks: Any) -> None:
    with pytest.raises(TypeError):
        tasks.add.enqueue(object())

    assert outcome(tasks.not_json).errors[0].exception_class is TypeError


def test_a_task_may_enqueue_a_task(tasks: Any, told: Told) -> None:
    assert outcome(tasks.add_by_task, 3).status == "SUCCESSFUL"
    eventually(lambda: backend().executor.stats()["process"].finished == 2, PATIENCE)


def test_a_task_uses_the_database_of_the_site(tasks: Any) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE notes (line TEXT)")
    assert outcome(tasks.note, "from a worker").status == "SUCCESSFUL"
    with connection.cursor() as cursor:
        cursor.execute("SELECT line FROM notes")
        assert cursor.fetchall() == [("from a worker",)]
    connection.close()


def test_no_more_results_are_kept_than_options_say(tasks: Any) -> None:
    from django.tasks.exceptions import TaskResultDoesNotExist

    task = tasks.add.using(backend="short")
    first, last = outcome(task, 1), outcome(task, 2)

    assert eventually(lambda: task.get_result(last.id), PATIENCE).return_value == 3
    with pytest.raises(TaskResultDoesNotExist):
        task.get_result(first.id)


def test_results_in_a_cache_are_for_every_process(tasks: Any, site: Path) -> None:
    from unirun.integrations import django as ours

    task = tasks.add.using(backend="shared")
    result = outcome(task, 40, b=2)
    ours._offices.pop("shared").close()  # as a process that does not know of it

    assert backend("shared").supports_get_result
    assert task.get_result(result.id).return_value == 42
    assert not backend().supports_get_result


# -- ends ------------------------------------------------------------------------------------------


def test_what_a_task_raises_is_told_with_its_traceback(tasks: Any) -> None:
    result = outcome(tasks.fail, "of all things")

    assert result.status == "FAILED"
    [error] = result.errors
    assert error.exception_class is LookupError
    assert "of all things" in error.traceback
    assert "in fail" in error.traceback
    with pytest.raises(ValueError, match="failed"):
        result.return_value  # noqa: B018


def test_a_task_that_hangs_is_killed_when_its_time_is_up(tasks: Any, tmp_path: Path) -> None:
    result = outcome(tasks.hang.using(backend="short"), str(tmp_path / "pid"))

    assert result.errors[0].exception_class_path == "unirun.TaskTimeout"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_task_can_be_killed(tasks: Any, tmp_path: Path) -> None:
    result = tasks.hang.enqueue(str(tmp_path / "pid"))
    eventually(lambda: tasks.hang.get_result(result.id).status == "RUNNING", PATIENCE)
    eventually((tmp_path / "pid").exists, PATIENCE)

    assert backend().kill(result.id)
    assert backend().wait(result.id, PATIENCE).errors[0].exception_class_path == "unirun.TaskKilled"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_task_that_crashes_fails_and_the_next_one_runs(tasks: Any) -> None:
    assert outcome(tasks.crash).errors[0].exception_class_path == "unirun.WorkerCrashed"
    assert outcome(tasks.add, 1).return_value == 2


def test_a_task_is_tried_again_and_counts_its_attempts(tasks: Any, tmp_path: Path) -> None:
    result = outcome(tasks.fail_at_first.using(backend="shared"), str(tmp_path / "file"))

    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", "done", 2)


def test_waiting_ends_when_its_time_is_up(tasks: Any, tmp_path: Path) -> None:
    result = tasks.hang.enqueue(str(tmp_path / "pid"))

    with pytest.raises(TimeoutError, match=result.id):
        backend().wait(result.id, 0.01)


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["default", "threads"])
@pytest.mark.parametrize(("name", "end"), [("add", "SUCCESSFUL"), ("fail", "FAILED")])
def test_signals_tell_of_each_step_in_order(
    tasks: Any, told: Told, name: str, end: str, alias: str
) -> None:
    outcome(getattr(tasks, name).using(backend=alias), 1)

    assert told == [
        ("task_enqueued", "READY"),
        ("task_started", "RUNNING"),
        ("task_finished", end),
    ]


def test_a_receiver_that_fails_harms_no_task(tasks: Any, caplog: Any) -> None:
    from django.tasks.signals import task_finished, task_started

    def receive(**_: Any) -> None:
        raise OSError("receiver")

    for signal in (task_started, task_finished):
        signal.connect(receive)
    try:
        assert outcome(tasks.add, 1).return_value == 2
    finally:
        for signal in (task_started, task_finished):
            signal.disconnect(receive)
    assert "receiver" in caplog.text


# -- what is taken ---------------------------------------------------------------------------------


def test_higher_priority_goes_first(tasks: Any, tmp_path: Path) -> None:
    go, order = str(tmp_path / "go"), str(tmp_path / "order")
    for _ in range(2):  # one for each worker
        tasks.wait_for.enqueue(go, order, "")
    eventually(lambda: backend().executor.stats()["process"].running == 2, PATIENCE)
    marks = [(mark, -50) for mark in "bcdefgh"] + [("a", 50)]
    results = [
        tasks.wait_for.using(priority=priority).enqueue(go, order, mark) for mark, priority in marks
    ]
    (tmp_path / "go").touch()
    for result in results:
        backend().wait(result.id, PATIENCE)

    # Behind what the two workers may have been sent already.
    assert "a" in Path(order).read_text()[:4]


def test_what_this_backend_has_not_is_refused(tasks: Any) -> None:
    from django.tasks.exceptions import InvalidTask
    from django.utils import timezone

    with pytest.raises(InvalidTask, match="run_after"):
        tasks.add.using(run_after=timezone.now() + timedelta(hours=1))
    with pytest.raises(InvalidTask, match="Queue 'unknown'"):
        tasks.add.using(queue_name="unknown")
    with pytest.raises(InvalidTask, match="priority"):
        tasks.add.using(priority=101)
    assert tasks.add.using(queue_name="mail", priority=-100).queue_name == "mail"


def test_calls_of_a_view_leave_its_locals_behind_without_a_word() -> None:
    from asgiref.local import Local

    local = Local()
    local.lock = threading.Lock()  # Django keeps objects there that cannot be pickled
    with unirun.Executor(1, backend="process") as executor:
        assert executor.submit(abs, -1).result() == 1  # warnings are errors here


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"exectuor": {}}, "unknown OPTIONS"),
        ({"executor": {"max_workres": 2}}, "max_workers"),
        ({"executor": {"max_workers": -1}}, "max_workers"),
        ({"call": {"timout": 3}}, "timeout"),
        ({"call": {"memory": "1GiB"}, "executor": {"backend": "thread"}}, "memory"),
        ({"keep": "all"}, "keep"),
        ({"cache": "nowhere"}, "nowhere"),
    ],
)
def test_check_says_what_is_wrong_with_options(options: dict[str, Any], text: str) -> None:
    from unirun.integrations.django import UnirunBackend

    [error] = UnirunBackend("x", {"OPTIONS": options}).check()

    assert error.id == "unirun.E001"
    assert text in error.msg


def test_check_finds_nothing_wrong_with_the_site() -> None:
    from django.core.management import call_command

    call_command("check")


def test_changed_settings_make_another_executor(tasks: Any) -> None:
    from django.conf import settings
    from django.test import override_settings

    before = backend().executor
    changed = {**settings.TASKS, "default": {**settings.TASKS["default"], "OPTIONS": {}}}
    with override_settings(TASKS=changed):
        assert backend().executor is not before
        assert outcome(tasks.add, 1).return_value == 2


def test_the_site_of_the_docs_prints_what_is_shown(tmp_path: Path) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "integrations.md").read_text()
    page = page[page.index("## Django") : page.index("## FastAPI")]
    files = dict(re.findall(r"^```py\n# (\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    [shown] = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    ended = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", shown)
