"""The backend of docs/writing_a_backend.md is small, and keeps the contract."""

import sys
from pathlib import Path

import pytest

from unirun.testing import BackendTests

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "examples" / "thread_per_call.py"


@pytest.fixture(scope="module", autouse=True)
def _its_module_can_be_imported():
    sys.path.insert(0, str(SOURCE.parent))
    yield
    sys.path.remove(str(SOURCE.parent))


class TestThreadPerCall(BackendTests):
    backend = "thread_per_call:ThreadPerCall"


def test_it_has_150_lines_at_most_but_for_blank_ones():
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    assert sum(1 for line in lines if line.strip()) <= 150
