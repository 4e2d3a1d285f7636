"""The sample application gives the same on every backend, switched in every way there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unirun import _registry

EXAMPLES = Path(__file__).parent.parent / "examples"
TASKS = ("read", "count", "pack", "gather")
PACKAGES = ("json", "xml")

# Runs the application as it is, once settings have been made; then tells where its tasks go.
PROGRAM = """
import sys
sys.path.insert(0, {examples!r})
import unirun
{settings}
import keywords
keywords.main({packages!r})
where = [unirun.explain(getattr(keywords, name)).backend for name in {tasks!r}]
print(*where, file=sys.stderr)
"""


def run(
    directory: Path, settings: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    code = PROGRAM.format(examples=str(EXAMPLES), packages=PACKAGES, tasks=TASKS, settings=settings)
    return subprocess.run(
        [sys.executable, "-W", "error:[", "-c", code],
        cwd=directory,
        env={**kept, **environment},
        capture_output=True,
        timeout=50,
        check=False,
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What it prints where nobody has set anything."""
    ended = run(tmp_path_factory.mktemp("unset"))
    assert (ended.returncode, ended.stderr) == (0, b"thread process thread coroutine\n")
    assert len(ended.stdout.splitlines()) == len(PACKAGES) + 5
    return ended.stdout


def everywhere(backend: str) -> bytes:
    return b" ".join([backend.encode()] * len(TASKS)) + b"\n"


@pytest.mark.parametrize("backend", ["inline", "thread", "process", "dask", "ray"])
def test_by_a_variable_it_prints_the_same_on_every_backend(backend, expected, tmp_path):
    if backend not in _registry.BUILTIN or _registry.available(backend) is not None:
        pytest.skip(f"there is no {backend!r} backend here")
    ended = run(tmp_path, UNIRUN_BACKEND=backend)

    assert (ended.returncode, ended.stderr) == (0, everywhere(backend))
    assert ended.stdout == expected


def test_by_code_it_prints_the_same(expected, tmp_path):
    ended = run(tmp_path, "unirun.configure(backend='inline')")

    assert (ended.returncode, ended.stderr) == (0, everywhere("inline"))
    assert ended.stdout == expected


def test_by_a_file_and_a_rule_in_it_it_prints_the_same(expected, tmp_path):
    lines = ["[tool.unirun]", "routes = {io='inline', native='process'}", "max_workers = 1"]
    lines += ["[tool.unirun.task.'keywords:count']", "backend = 'thread'"]
    (tmp_path / "pyproject.toml").write_text("\n".join(lines))
    ended = run(tmp_path)

    assert (ended.returncode, ended.stderr) == (0, b"inline thread process coroutine\n")
    assert ended.stdout == expected


def test_by_routes_for_single_kinds_it_prints_the_same(expected, tmp_path):
    ended = run(tmp_path, UNIRUN_ROUTES="cpu=inline,io=process,async=thread")

    assert (ended.returncode, ended.stderr) == (0, b"process inline thread thread\n")
    assert ended.stdout == expected


def test_as_a_script_it_prints_the_same(expected, tmp_path):
    ended = subprocess.run(
        [sys.executable, EXAMPLES / "keywords.py", *PACKAGES],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")},
        capture_output=True,
        timeout=50,
        check=False,
    )

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, b"", expected)
