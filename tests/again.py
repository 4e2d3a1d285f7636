"""Which tests `make test` leaves to `make test-wheel`: the same claims once more, elsewhere.

Each row is a reason and a pattern of node ids.  What it matches gets the mark `again`, as if it
were written at the test itself; here one sees at a glance what the daily run does without.
"""

import re

import pytest

PATTERNS = {
    "other ways to start a worker than the default": (
        r"(\[|-)(spawn|fork|forkserver)(-|\])|::Test(Spawn|Fork)\b"
    ),
    "loopback instead of a socket in a directory": r"(\[|-)AF_INET(-|\])",
    "deaths by one's own hand; by a signal they are the same to whoever stays": (
        r"test_faults_\w+\.py::.*(\[|-)(abort|_exit)\]"
    ),
    "each facility of the system missing alone; all together stay": (
        r"test_fallbacks\.py::.*\[(?!all|cells)"
    ),
    "each workload of the benchmarks": (
        r"test_a_workload_yields_figures_for_both_sides\[(?!submit\]|shared-queue\])"
    ),
    "a manager that stands still, elsewhere than with the owner": (
        r"test_timeouts_hold_while_it_stands_still\[cells-(?!the owner)"
    ),
    "gigabytes": r"two_gib",
    "copies of large objects; views of the same stay": (
        r"test_(it_comes_back_as_it_was|large_objects_go_there_and_back)\[.*copy"
    ),
    "every other moment of a worker's life; test_worker_dies.py has the chosen ones": (
        r"test_steps\.py::"
    ),
    "programs of the documents in every way one can run a program": (
        r"test_each_program_prints_what_is_shown\[.*(by_c|by_stdin|notebook)\]"
    ),
    "all names where the same code makes them": (
        r"test_names\.py::test_each_\w+_in_a_task\[process-(?!Lock|Queue|Value|local)"
        r"|test_the_package_makes_them_by_the_current_executor\[(?!Lock|Queue)"
    ),
    "sizes of windows and chunks between the extremes": (
        r"test_in_any_order_each_call_runs_once_and_gets_its_own_answer\[(?!50-2|0-3)"
        r"|test_a_crash_costs_one_item_and_runs_none_twice\[.*-(7|600)"
        r"|test_items_of_a_queue_\w+\[[012]-"
    ),
    "exits of programs whose calls run in the main thread or in its loop": (
        r"test_exit\.py::.*\[(inline|coroutine)\]"
    ),
    "surveys that differ only in where the stages run": (
        r"test_examples\.py::test_(ctrl_c|a_survey_stops|a_second)\w+\[(inline|unforced|thread)\]"
    ),
    "the whole suite of a backend once more, for a backend from elsewhere": (
        r"test_a_backend_from_elsewhere_inherits"
    ),
    "objects reached through a process of somebody else": r"test_(lifetimes_far|distant)\w*\.py::",
}


def mark(items: list[pytest.Item]) -> None:
    """Mark what any pattern matches; before pytest selects by marks."""
    pattern = re.compile("|".join(PATTERNS.values()))
    for item in items:
        if pattern.search(item.nodeid):
            item.add_marker(pytest.mark.again)
