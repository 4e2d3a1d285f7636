"""Each figure in README.md and docs/ is one of benchmarks/results/, and names its command."""

import json
import platform
import re
import shlex
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))  # benchmarks/ is never installed

from benchmarks import ROOT, __main__, _pages, plots, results

FILES = sorted(results.FOLDER.glob("*.json"))
PAGES = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in _pages.pages()}
BLOCKS = [
    pytest.param(name, found["what"], found["body"], id=f"{name}-{found['what']}")
    for name, text in PAGES.items()
    for found in _pages.BLOCK.finditer(text)
]
# A time of so few microseconds, or how many times faster: only a measurement can say so.
FIGURE = re.compile(r"\d ?(?:µs|us|microseconds)\b|\b\d[\d.]*(?:x| times) (?:as fast|faster)")
# Rules of unirun itself, not measurements.
RULES = ("20 us or more", "shorter than 200 us", "less than\n20 µs", "less than 20 µs")


def test_every_planned_file_is_there_and_none_beside_them() -> None:
    assert [file.stem for file in FILES] == sorted(results.PLAN)


@pytest.mark.parametrize(("page", "what", "body"), BLOCKS)
def test_a_block_shows_what_its_file_says(page: str, what: str, body: str) -> None:
    assert body == _pages.body(what, (ROOT / page).parent)


def test_every_result_is_shown_somewhere() -> None:
    shown = {param.values[1].split()[0] for param in BLOCKS}
    sources = {source for view in shown for source in _pages.VIEW_SOURCES.get(view, (view,))}
    assert sources >= set(results.PLAN)


@pytest.mark.parametrize("page", PAGES)
def test_no_figure_stands_beside_the_blocks(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    text = _pages.BLOCK.sub("", text)
    for rule in RULES:
        text = text.replace(rule, "")
    assert [found[0] for found in FIGURE.finditer(text)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_names_the_command_that_measures_it(file: Path) -> None:
    found = json.loads(file.read_text())
    program, dash, module, *options = shlex.split(found["command"])
    assert [program, dash, module] == ["python", "-m", "benchmarks"]
    wanted = __main__._parse(options)
    assert str(wanted.json) == file.relative_to(ROOT).as_posix()
    assert found.get("limits") or {row["workload"].split()[0] for row in found["rows"]} == {
        workload.name for workload in wanted.only
    }
    if not wanted.quick and not wanted.limits:
        rounds = {len(row["ours"]["figures"]) for row in found["rows"]}
        assert min(rounds) >= 5 or any(row["note"] for row in found["rows"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_says_nothing_of_whose_machine_it_was(file: Path) -> None:
    text = file.read_text()
    assert platform.node() not in text
    assert re.findall(r"/(?:home|root|tmp|var|usr|opt|Users)/", text) == []


@pytest.mark.parametrize("name", plots.PICTURES)
def test_a_picture_is_of_the_figures_beside_it(name: str) -> None:
    assert plots.is_current(name)
    assert any(f"images/{name}.svg" in text for text in PAGES.values())


def test_a_row_in_which_a_peer_is_ahead_is_named(monkeypatch, tmp_path) -> None:
    def row(workload: str, ours: float, peer: float) -> dict[str, object]:
        return {
            "workload": workload,
            "unit": "ms",
            "ours": {"name": "unirun", "figures": [ours]},
            "peer": {"name": "them", "figures": [peer]},
            "ratio": peer / ours,
            "spread": [peer / ours] * 2,
        }

    rows = [row("won", 0.001, 0.002), row("lost", 0.002, 0.001), row("even", 1.0, 0.97)]
    (tmp_path / "some.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(_pages, "FOLDER", tmp_path)

    named = "\n".join(_pages.behind())

    assert "| lost | them | 1.00 ms | 2.00 ms | 0.50x |" in named
    assert "won" not in named
    assert "even" not in named


def test_a_changed_figure_changes_the_page(monkeypatch, tmp_path) -> None:
    found = json.loads((results.FOLDER / "calls.json").read_text())
    found["rows"][0]["peer"]["figures"] = [12.5]
    (tmp_path / "calls.json").write_text(json.dumps(found))
    text = "<!-- begin results: calls submit -->\nold\n<!-- end results -->"
    before = _pages.renewed(text, ROOT)
    monkeypatch.setattr(_pages, "FOLDER", tmp_path)

    assert before != text
    assert _pages.renewed(text, ROOT) != before
    assert "12,500,000 µs" in _pages.renewed(text, ROOT)


def test_figures_are_kept_with_four_digits() -> None:
    assert results.rounded({"a": [0.000123456, 7], "b": "text"}) == {
        "a": [0.0001235, 7],
        "b": "text",
    }
