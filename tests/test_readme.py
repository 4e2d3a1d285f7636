"""What the README shows, it does: every block is run as a reader would run it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unirun._shared_names import NAMES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODES = ("inline", "thread", "process", "unforced")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


# Each program is followed by what it prints.
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
)
# Those that no backend forbids: the others kill, crash or name a backend.
PORTABLE = [each for each in EXAMPLES if not re.search(r"isolated|inline", each[0])]


def python(
    directory: Path, *arguments: str, stdin: str = "", mode: str = "unforced"
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    forced = {} if mode == "unforced" else {"UNIRUN_BACKEND": mode}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**kept, **forced},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def as_script(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    directory.joinpath("example.py").write_text(code)
    return python(directory, "example.py")


def by_c(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    return python(directory, "-c", code)


def by_stdin(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    return python(directory, "-", stdin=code)


def in_a_repl(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    ended = python(directory, "-i", "-q", stdin=code)
    assert "Error" not in ended.stderr, ended.stderr
    ended.stderr = re.sub(r"(>>> |\.\.\. )*\n?", "", ended.stderr)
    return ended


# As a notebook does: __main__ is the notebook's own program, and cells run in its namespace.
NOTEBOOK = """
import sys
for number, cell in enumerate(sys.stdin.read().split("\\n\\n")):
    exec(compile(cell, f"<cell {number}>", "exec"))
"""


def in_a_notebook(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    return python(directory, "-c", NOTEBOOK, stdin=code)


WAYS = (as_script, by_c, by_stdin, in_a_repl, in_a_notebook)


def test_every_program_is_followed_by_what_it_prints():
    assert [code for code, _ in EXAMPLES] == blocks("python")
    assert "__main__" not in "".join(blocks("python"))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example[1].split("\n")[0][:20])
def test_each_program_prints_what_is_shown(way, example, tmp_path):
    code, output = example

    ended = way(tmp_path, code)

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("example", PORTABLE, ids=lambda example: example[1].split("\n")[0][:20])
def test_what_runs_on_any_backend_prints_the_same_on_each(mode, example, tmp_path):
    code, output = example
    (tmp_path / "example.py").write_text(code)

    ended = python(tmp_path, "example.py", mode=mode)

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)


PROGRAM_WITH_SETTINGS = """
import unirun
from myproject.reports import yearly

explained = unirun.explain(yearly)
settings = {key: value for key, value, _ in explained.settings}
print(explained.backend, settings["timeout"], settings["max_workers"], settings["routes.io"])
print(yearly.run())
"""


def in_its_own_file(settings: str) -> str:
    return settings.replace("[tool.unirun]\n", "").replace("tool.unirun.", "")


@pytest.mark.parametrize("name", ["pyproject.toml", "unirun.toml"])
def test_the_settings_file_does_what_is_said(name, tmp_path):
    (settings,) = blocks("toml")
    (tmp_path / name).write_text(settings if name.startswith("py") else in_its_own_file(settings))
    (tmp_path / "myproject").mkdir()
    task = "import unirun\n@unirun.task(kind='io')\ndef yearly(): return 'done'\n"
    (tmp_path / "myproject" / "reports.py").write_text(task)

    ended = as_script(tmp_path, PROGRAM_WITH_SETTINGS)

    assert (ended.stderr, ended.stdout) == ("", "process 120.0 4 process\ndone\n")


def commands(*words: str) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith(words)]


@pytest.mark.parametrize("command", commands("unirun ", "find "))
def test_each_command_line_works(command, tmp_path):
    for name in ("one.txt", "two.txt", "three.py"):
        (tmp_path / name).write_text(name)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PATH": beside},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("command", commands("make "))
def test_each_target_of_make_exists(command):
    ended = subprocess.run(
        [*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, timeout=20, check=False
    )

    assert ended.returncode == 0


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)", README)

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_shared_object_is_named():
    assert [name for name in NAMES if f"`{name}`" not in README] == []


def test_the_extras_that_are_named_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"\.\[(\w+)\]", README))

    assert named <= set(project["optional-dependencies"])
    assert project["name"] == "unirun-executor"
    assert "`unirun-executor`" in README
