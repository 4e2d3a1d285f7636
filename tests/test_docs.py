"""What docs/ shows, it does, as the README: every program prints what stands behind it."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_readme import MODES, ROOT, as_script, by_stdin, python

from unirun._shared_names import NAMES

DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Pages whose programs are those of other libraries, tell where they run, or show the same again.
ONCE = (
    *("concepts.md", "howto.md", "index.md", "integrations.md", "tutorial.md"),
    "writing_a_backend.md",
)
ALL = [
    pytest.param(code, output, id=f"{name}-{number}")
    for name, text in sorted(DOCS.items())
    for number, (code, output) in enumerate(PROGRAM.findall(text))
]
EXAMPLES = [each for each in ALL if not str(each.id).startswith(ONCE)]
PLAIN = [each for each in ALL if each not in EXAMPLES]


def test_every_program_is_followed_by_what_it_prints() -> None:
    shown = sum(text.count("```python\n") for text in DOCS.values())
    assert shown == len(ALL) > 0


def skip_without_its_library(code: str) -> None:
    others = r"^(?:import|from) (trio|anyio|joblib|sklearn|dask|pebble|celery)\b"
    for name in re.findall(others, code, re.MULTILINE):
        if find_spec(name) is None:  # not imported here: joblib sets variables of the environment
            pytest.skip(f"{name} is not installed; `make docs` or `make test-integrations` runs it")


@pytest.mark.parametrize(("code", "output"), PLAIN)
def test_what_others_do_and_what_takes_its_place_print_the_same(code, output, tmp_path) -> None:
    skip_without_its_library(code)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ended = as_script(tmp_path, code)

    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)


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
