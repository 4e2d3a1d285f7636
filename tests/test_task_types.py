"""What a type checker makes of @task: parameters and results of the function are those of the task.

One run of `mypy --strict` over one file. `assert_type` fails where a type is another; a line that
ends in `# refused` has to be an error of that code, and no other line may be one.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

import unirun

pytest.importorskip("mypy", reason="mypy comes with the extra 'dev'")

CASES = """
import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, assert_type
import unirun
from unirun import Activity, Executor, Future, Task, Timer, task

@task
def plain(a: int, b: str = "") -> bytes:
    return b""

@task(kind="cpu", timeout=3)
def hinted(*, key: int) -> list[str]:
    return []

@task
async def later(a: int) -> str:
    return ""

class Shop:
    @task
    def method(self, a: int) -> float:
        return 0.0

    @task(kind="io")
    async def async_method(self, a: int) -> float:
        return 0.0

    @staticmethod
    @task
    def static(a: int) -> float:
        return 0.0

    @task(kind="cpu")
    @staticmethod
    def outer_static(a: int) -> float:
        return 0.0

    @task
    @classmethod
    def of_class(cls, a: int) -> float:
        return 0.0

    @task(kind="cpu")
    @classmethod
    def hinted_of_class(cls, a: int) -> float:
        return 0.0

class Branch(Shop): ...

@task
def takes_a_class(kind: type[Shop], a: int) -> float:
    return 0.0

def undecorated(a: int) -> complex:
    return 0j

async def undecorated_later(a: int) -> complex:
    return 0j

# a call is a plain call
assert_type(plain(1, b="x"), bytes)
assert_type(plain(1), bytes)
assert_type(hinted(key=1), list[str])
assert_type(Shop().method(1), float)
assert_type(Shop.method(Shop(), 1), float)
assert_type(Shop.static(1), float)
plain("1")  # refused
plain()  # refused
hinted(1)  # refused
hinted(kye=1)  # refused
Shop().method("1")  # refused

# submit takes what the function takes, and the future holds what it returns
assert_type(plain.submit(1, b="x"), Future[bytes])
assert_type(plain.submit(1).result(), bytes)
assert_type(hinted.submit(key=1), Future[list[str]])
assert_type(Shop().method.submit(1), Future[float])
assert_type(Shop.static.submit(1), Future[float])
plain.submit("1")  # refused
plain.submit()  # refused
plain.submit(1, timeout=3)  # refused
Shop().method.submit("1")  # refused

# so does run
assert_type(plain.run(1), bytes)
assert_type(Shop().method.run(1), float)
plain.run("1")  # refused

# options keep the type
assert_type(plain.options(timeout=3).submit(1), Future[bytes])
assert_type(plain.options(timeout=3)(1), bytes)
assert_type(Shop().method.options(timeout=3).submit(1), Future[float])
plain.options(timeout=3).submit("1")  # refused

# a coroutine function: a plain call makes the coroutine, a future holds what it returns
made: Coroutine[Any, Any, str] = later(1)
later(1)  # refused
assert_type(later.submit(1), Future[str])
assert_type(later.run(1), str)
assert_type(Shop().async_method.submit(1), Future[float])
later.submit("1")  # refused

async def waits() -> None:
    assert_type(await plain.submit(1), bytes)
    assert_type(await later.submit(1), str)
    assert_type(await later(1), str)

# tasks and functions go to an executor alike
with Executor() as executor:
    assert_type(executor.submit(undecorated, 1), Future[complex])
    assert_type(executor.submit(undecorated_later, 1), Future[complex])
    assert_type(executor.submit(plain, 1), Future[bytes])
    assert_type(executor.submit(later, 1), Future[str])
    assert_type(executor.submit(Shop().method, 1), Future[float])
    assert_type(executor.options(timeout=3).submit(plain, 1), Future[bytes])
    assert_type(executor.Timer(1, undecorated, [1]), Timer)
    assert_type(executor.options(kind="io").Activity(undecorated, (1,)), Activity)
    executor.submit(undecorated, "1")  # refused
    executor.submit(plain, "1")  # refused
assert_type(unirun.submit(plain, 1), Future[bytes])
assert_type(unirun.submit(undecorated_later, 1), Future[complex])
assert_type(unirun.run(plain, 1), bytes)
assert_type(unirun.run(undecorated_later, 1), complex)

# what runs beside calls
class Beside(Activity):
    def run(self) -> None:
        assert_type(self.name, str)

assert_type(Beside(kind="cpu", daemon=True).exitcode, int | None)
assert_type(Beside().kill(), bool)
assert_type(Timer(1, undecorated, [1], {"b": 2}).exception, BaseException | None)
Activity(kind=3)  # refused
Timer("1", undecorated)  # refused

# static and class methods
assert_type(Shop.static.submit(1), Future[float])
assert_type(Shop.outer_static(1), float)
assert_type(Shop.outer_static.submit(1), Future[float])
assert_type(Shop.of_class(1), float)
assert_type(Shop.of_class.submit(1), Future[float])
assert_type(Shop.hinted_of_class.submit(1), Future[float])
assert_type(Branch.of_class.submit(1), Future[float])
assert_type(Shop().of_class.run(1), float)
assert_type(takes_a_class.submit(Shop, 1), Future[float])
Shop.static.submit("1")  # refused
Shop.of_class.submit("1")  # refused
Shop.hinted_of_class("1")  # refused

# a task is a callable like any other
function: Callable[[int], bytes] = plain
same: Task[[int], complex] = task(undecorated)
wrong: Callable[[str], bytes] = plain  # refused
task(3)  # refused
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy has against a line, by its number."""
    home = tmp_path_factory.mktemp("types")
    (home / "cases.py").write_text(CASES)
    package = Path(unirun.__file__).parent.parent
    # An installed package is found by itself; mypy cannot follow an editable one.
    path = {} if package.name == "site-packages" else {"MYPYPATH": str(package)}
    command = ["-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    done = subprocess.run(
        [sys.executable, *command, "--config-file=", "--cache-dir=cache", "cases.py"],
        cwd=home,
        env=environment(**path),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stderr == ""
    errors = dict(re.findall(r"^cases\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE))
    assert done.returncode == (1 if errors else 0), done.stdout
    return {int(line): text for line, text in errors.items()}


def test_types_are_those_of_the_function(found: dict[int, str]) -> None:
    lines = dict(enumerate(CASES.splitlines(), 1))
    refused = {number for number, line in lines.items() if line.endswith("# refused")}
    assert refused, "the cases are marked"
    surprising = {lines[number]: text for number, text in found.items() if number not in refused}
    assert surprising == {}
    accepted = [lines[number] for number in refused - found.keys()]
    assert accepted == []
