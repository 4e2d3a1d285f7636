"""docs/configuration.md tells of every setting what the code does."""

import tomllib
from pathlib import Path

import pytest
from settings_files import write
from settings_table import DOCUMENT, renewed

from unirun._config import load

TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    assert renewed(TEXT) == TEXT, "run: python tests/settings_table.py"


@pytest.mark.usefixtures("here")
def test_the_file_it_shows_says_what_is_written_beside_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = TEXT.partition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(shown)
    write(here / "pyproject.toml", shown)
    report = load().resolve(task="shop.reports:Daily.run")
    assert (report["kind"], report["timeout"], report["routes"]["io"]) == (
        "isolated",
        120.0,
        "process",
    )
    assert report.backend_options("process")["grace"] == 0.5
    assert report.backend_options("thread")["grace"] == 3.0
    monkeypatch.setenv("UNIRUN_PROFILE", "test")
    assert load().resolve(task="shop.reports:Daily.run")["backend"] == "inline"
    assert (
        load()
        .resolve(task="shop.reports:Daily.run")
        .source("retries")
        .startswith("pyproject.toml [tool.unirun.profile.test]")
    )
