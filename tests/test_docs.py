"""What docs/ shows, it does, as the README: every program prints what stands behind it."""

import re
from pathlib import Path

import pytest
from test_readme import MODES, ROOT, as_script, by_stdin, python

from unirun._shared_names import NAMES

DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = [
    pytest.param(code, output, id=f"{name}-{number}")
    for name, text in DOCS.items()
    for number, (code, output) in enumerate(PROGRAM.findall(text))
]


def test_every_program_is_followed_by_what_it_prints() -> None:
    shown = sum(text.count("```python\n") for text in DOCS.values())
    assert shown == len(EXAMPLES) > 0


def skip_without_its_library(code: str) -> None:
    for name in re.findall(r"^import (trio|anyio)$", code, re.MULTILINE):
        pytest.importorskip(name)


@pytest.mark.parametrize("way", [as_script, by_stdin], ids=lambda way: way.__name__)
@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_each_program_prints_what_is_shown(code, output, way, tmp_path) -> None:
    skip_without_its_library(code)
    ended = way(tmp_path, code)

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_what_needs_no_process_prints_the_same_on_every_backend(
    code, output, mode, tmp_path
) -> None:
    if "isolated" in code and mode != "process":
        pytest.skip("it crashes on purpose")
    skip_without_its_library(code)
    (tmp_path / "example.py").write_text(code)

    ended = python(tmp_path, "example.py", mode=mode)

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)


@pytest.mark.parametrize("name", DOCS)
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", DOCS[name])

    assert [link for link in links if not Path(ROOT, "docs", link).exists()] == []


def test_every_shared_object_is_described() -> None:
    assert [name for name in NAMES if f"`{name}`" not in DOCS["shared.md"]] == []
