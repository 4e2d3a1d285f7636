"""The guard of `make bench-check` can fail: what is over its budget, or has lost its count."""

import sys
import tomllib
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))  # benchmarks/ is never installed

from benchmarks import _counts, check


def wrong(counts: dict[str, float], budgets: dict[str, float]) -> list[str]:
    return [verdict.wrong for verdict in check.verdicts(counts, budgets)]


def test_a_count_at_its_budget_passes_and_one_above_it_does_not() -> None:
    assert wrong({"a": 3}, {"a": 3}) == [""]
    assert wrong({"a": 3.01}, {"a": 3}) == ["over budget"]


def test_a_count_without_a_budget_and_a_budget_without_a_count_are_wrong() -> None:
    assert wrong({"a": 1}, {}) == ["no budget; give it one in budgets.toml"]
    assert wrong({"a": 1}, {"a": 1, "b": 1}) == ["", "not counted any more; remove its budget"]


def test_a_probe_that_cannot_count_here_is_not_wrong() -> None:
    [verdict] = check.verdicts({}, {"a": 1})
    assert verdict.wrong == ""
    assert check.text(verdict).endswith("not counted here")


def test_the_smallest_of_several_runs_counts() -> None:
    assert check.smallest([{"a": 2, "b": 5}, {"a": 3, "b": 4}]) == {"a": 2, "b": 4}


def test_a_budget_with_too_much_room_is_told() -> None:
    [verdict] = check.verdicts({"a": 1}, {"a": 3})
    assert check.text(verdict).endswith("lower the budget")


def test_every_probe_has_budgets_and_nothing_else_has() -> None:
    assert tomllib.loads(check.BUDGETS.read_text()).keys() == _counts.PROBES.keys()


def test_the_command_fails_when_what_it_counts_is_over_budget(
    tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(check, "TIMES", 1)
    budgets = check.BUDGETS.read_text()

    assert check.main(["functions"]) == 0

    tight = tmp_path / "budgets.toml"
    name = '"functions called by submit: process" = '
    assert name in budgets
    tight.write_text(budgets.replace(name, f"{name}0.5 #"))
    capsys.readouterr()

    assert check.main(["functions", "--budgets", str(tight)]) == 1
    assert "0.5  NO: over budget" in capsys.readouterr().out


def test_an_unknown_probe_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        check.main(["nonsense"])
    assert "unknown: nonsense" in capsys.readouterr().err
