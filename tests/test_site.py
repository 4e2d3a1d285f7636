"""The pages of docs/ are one site: each can be reached, and says what the code does."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
CONCEPTS = (DOCS / "concepts.md").read_text(encoding="utf-8")


def test_every_page_stands_in_the_navigation_once() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.DOTALL | re.MULTILINE)
    named = [line for tree in trees for line in tree.splitlines() if re.fullmatch(r"\w+", line)]

    assert sorted([*named, "index"]) == PAGES


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`, as GitHub and the site make it of headings."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_heading_leads_to_one(name: str) -> None:
    links = re.findall(r"\]\((\w+\.md)?#([^)]+)\)", (DOCS / f"{name}.md").read_text("utf-8"))
    wrong = [(page, to) for page, to in links if to not in anchors(DOCS / (page or f"{name}.md"))]

    assert wrong == []


def test_each_concept_has_its_picture_which_needs_nothing_else() -> None:
    shown = re.findall(r"^!\[([^\]]{20,})\]\((images/\w+\.svg)\)$", CONCEPTS, re.MULTILINE)

    assert len(shown) == len(re.findall(r"^## ", CONCEPTS, re.MULTILINE)) == 5
    for _, path in shown:
        picture = (
            (DOCS / path).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        )
        assert "<title>" in picture
        assert "http" not in picture


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_the_table_of_capabilities_is_the_one_of_the_code() -> None:
    ended = run(".ci/write_docs.py", "--check")

    assert (ended.returncode, ended.stderr) == (0, "")


# -- releases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [(), ("--no-posix",)], ids=["here", "without POSIX"])
def test_what_works_on_every_system_works_without_posix(how: tuple[str, ...]) -> None:
    ended = run(".ci/smoke.py", *how)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("needs POSIX" in ended.stdout) is bool(how)


def test_all_extras_for_users_are_in_the_extra_all() -> None:
    """But none of the tools that work on unirun itself."""
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    tools = {"all", "bench", "dev", "docs", "integrations", "release", "test"}

    named = set(re.findall(r"\w+", everything.partition("[")[2]))
    assert named == {extra for extra in extras if extra not in tools}


def test_the_versions_that_are_promised_are_tried() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    promised = [
        words[-1]
        for each in PROJECT["classifiers"]
        if re.fullmatch(r"3\.\d+", (words := each.split(" :: "))[-1])
    ]

    assert promised
    assert [each for each in promised if f'"{each}"' not in noxfile] == []
    assert [each for each in promised if f'"{each}"' not in workflow] == []
