"""The tests of test_shared.py once more, with the manager in a process of its own."""

import pytest
from in_a_process import manager, mapping  # noqa: F401
from test_shared import *  # noqa: F403

pytestmark = pytest.mark.again
