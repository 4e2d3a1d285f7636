"""Tasks of that site."""

import os
import threading
from pathlib import Path
from typing import Any

from django.db import connection
from django.tasks import TaskContext, task


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task
def pid() -> int:
    return os.getpid()


@task
async def doubled(x: int) -> int:
    return 2 * x


@task
def fail(text: str) -> None:
    raise LookupError(text)


@task
def fail_at_first(file: str) -> str:
    if not Path(file).exists():
        Path(file).touch()
        raise OSError("not yet")
    return "done"


@task
def hang(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    threading.Event().wait()


@task
def crash() -> None:
    os.kill(os.getpid(), 9)


@task(takes_context=True)
def look_around(context: TaskContext, word: str) -> list[Any]:
    result = context.task_result
    return [context.attempt, result.id, result.status, result.args, word, len(result.worker_ids)]


@task
def not_json() -> Any:
    return object()


@task
def add_by_task(a: int) -> str:
    return add.enqueue(a).id


@task
def note(line: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO notes VALUES (%s)", [line])


@task
def wait_for(file: str, order: str, mark: str) -> None:
    while not Path(file).exists():
        pass
    with Path(order).open("a") as lines:
        lines.write(mark)
