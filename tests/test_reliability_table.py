"""docs/reliability.md says of every scenario that it passes, as a test run found."""

import re
from pathlib import Path

import pytest
import reliability_table
from reliability_table import SCENARIOS, Row, row_of

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
ROWS = dict(re.findall(r"^\| (\d+) \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
NUMBERS = [number for section in SCENARIOS.values() for number in section]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_scenario_passes_or_says_why_not(number: int) -> None:
    assert re.search(r"\| (passes \(|not applicable: )", ROWS[str(number)])


def test_nothing_on_the_page_failed() -> None:
    assert "FAILED" not in PAGE.read_text()


def test_a_row_of_which_one_test_failed_says_so() -> None:
    row = Row()
    row.tests = {"a": "passed", "b": "failed"}
    assert row_of("1", "name", row, None) == "| 1 | name | FAILED (1 of 2 tests) |  |"


def test_a_row_without_a_test_says_so_or_why() -> None:
    assert "NOT TESTED" in row_of("1", "name", Row(), None)
    assert "not applicable: no such thing" in row_of("1", "name", Row(), "no such thing")


def test_a_run_replaces_the_table_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"before\n{reliability_table.BEGIN}\n| 99 | gone |\n{reliability_table.END}\nafter\n",
    )
    reliability_table.Table(page).pytest_sessionfinish()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "gone |" not in text
    assert text.count("NOT TESTED") == len(NUMBERS)
