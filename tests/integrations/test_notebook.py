"""A notebook, executed by a real kernel: functions of cells, output, progress, `await`."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: test-integrations")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: make test-integrations")
nbformat = pytest.importorskip("nbformat")
from jupyter_client.manager import start_new_kernel  # noqa: E402

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("default"),  # of nbclient and zmq, which are not ours
]

CELLS = {
    "setup": """
        import logging, os, sys, threading, time, warnings
        import unirun
        executor = unirun.Executor(2, backend="process", grace=0.2)
        factor = 2
    """,
    "functions": """
        class Point:
            def __init__(self, x):
                self.x = x
            def __eq__(self, other):
                return type(other) is Point and self.x == other.x

        def work(n):
            return helper(n * factor)

        def helper(n):
            return Point(n)
        print(executor.submit(work, 3).result() == Point(6))
    """,
    "changed": """
        factor = 10
        def helper(n):
            return Point(n + 1)
        print(executor.submit(work, 3).result() == Point(31))
    """,
    "task": """
        @unirun.task(kind="cpu")
        def factorial(n):
            return 1 if n < 2 else n * factorial(n - 1)
        print(factorial.submit(10).result())
    """,
    "await": "await executor.submit(pow, 2, 10)",
    "async_for": """
        async for x in executor.map(abs, [-1, -2, -3]):
            print(x)
    """,
    "async_with": """
        async def double(x):
            return 2 * x
        async with unirun.Executor(2) as inner:
            print(await inner.submit(double, 21))
    """,
    "output": """
        def loud(n):
            print("out", n)
            print("err", n, file=sys.stderr)
            logging.getLogger("cell").warning("logged %d", n)
            warnings.warn(f"warned {n}")
        executor.submit(loud, 7).result()
    """,
    "progress": """
        def nap(n):
            time.sleep(0.05)
            return n
        print(list(executor.map(nap, range(6), progress=True, chunksize=1)))
    """,
    "timeout": """
        def hang():
            threading.Event().wait()
        try:
            executor.options(timeout=3).submit(hang).result()
        except unirun.TaskTimeout as exc:
            print("timed out")
    """,
    "kill": """
        future = executor.submit(hang)
        while not future.running():
            time.sleep(0.01)
        print(future.kill())
    """,
    "cancel": """
        import asyncio
        waiting = asyncio.ensure_future(asyncio.wait_for(executor.submit(hang), 1))
        try:
            await waiting
        except TimeoutError:
            print("killed", executor.stats()["process"].running == 0)
    """,
    "error": """
        def divide(a, b):
            return a / b
        executor.submit(divide, 1, 0).result()
    """,
    "threads": """
        seen = []
        with unirun.Executor(2, backend="thread") as threads:
            list(threads.map(seen.append, range(3)))
        print(sorted(seen))
    """,
    "shared": """
        queue = executor.Queue()
        def put(queue):
            queue.put("from a worker")
        executor.submit(put, queue).result()
        print(queue.get(timeout=10))
    """,
    "end": "executor.shutdown(); print(executor)",
}


def run() -> dict[str, list[Any]]:
    cells = {name: textwrap.dedent(text).strip() for name, text in CELLS.items()}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in cells.values()]
    )
    client = nbclient.NotebookClient(notebook, timeout=50, kernel_name="python3", allow_errors=True)
    client.execute()
    return dict(zip(cells, (cell.outputs for cell in notebook.cells), strict=True))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    directory = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(variable, str(directory / variable))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        return run()


def text(outputs: dict[str, list[Any]], cell: str, stream: str = "stdout") -> str:
    errors = [each for each in outputs[cell] if each.output_type == "error"]
    assert not errors or cell == "error", "\n".join(errors[0].traceback)
    return "".join(
        each.text for each in outputs[cell] if each.output_type == "stream" and each.name == stream
    )


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("functions", "True\n"),
        ("changed", "True\n"),
        ("task", "3628800\n"),
        ("async_for", "1\n2\n3\n"),
        ("async_with", "42\n"),
        ("progress", "[0, 1, 2, 3, 4, 5]\n"),
        ("timeout", "timed out\n"),
        ("kill", "True\n"),
        ("cancel", "killed True\n"),
        ("threads", "[0, 1, 2]\n"),
        ("shared", "from a worker\n"),
    ],
)
def test_a_cell_prints_what_it_should(outputs: dict[str, list[Any]], cell: str, shown: str) -> None:
    assert text(outputs, cell) == shown


def test_a_future_is_awaited_at_the_top_of_a_cell(outputs: dict[str, list[Any]]) -> None:
    [result] = outputs["await"]

    assert result.data["text/plain"] == "1024"


def test_what_workers_print_log_and_warn_of_is_shown_below_their_cell(
    outputs: dict[str, list[Any]],
) -> None:
    assert text(outputs, "output") == "out 7\n"
    errors = text(outputs, "output", "stderr")
    assert "err 7\n" in errors
    assert "logged 7\n" in errors
    assert "UserWarning: warned 7" in errors


def test_progress_is_shown_as_a_widget(outputs: dict[str, list[Any]]) -> None:
    pytest.importorskip("ipywidgets")
    shown = [each for each in outputs["progress"] if each.output_type == "display_data"]

    assert any("application/vnd.jupyter.widget-view+json" in each.data for each in shown)


def test_an_exception_shows_the_line_of_the_cell_it_comes_from(
    outputs: dict[str, list[Any]],
) -> None:
    [error] = [each for each in outputs["error"] if each.output_type == "error"]

    assert error.ename == "ZeroDivisionError"
    assert "return a / b" in re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))


def test_the_executor_of_a_notebook_ends(outputs: dict[str, list[Any]]) -> None:
    assert "shut down" in text(outputs, "end")


@pytest.mark.leaks("jupyter_client keeps its sockets, and an event loop in a thread")
def test_interrupting_the_kernel_ends_the_cell_and_leaves_the_executor_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        shown: list[str] = []

        def run(code: str, hook: Any = None) -> Any:
            return client.execute_interactive(code, timeout=40, output_hook=hook)["content"]

        def interrupt(message: Any) -> None:
            shown.append(message["content"].get("text", ""))
            if "begun" in shown[-1]:
                manager.interrupt_kernel()

        run(textwrap.dedent(CELLS["setup"]).strip())
        hang = "def hang():\n print('begun', flush=True)\n threading.Event().wait()\n"
        assert run(hang + "executor.submit(hang).result()", interrupt)["ename"] == (
            "KeyboardInterrupt"
        )
        assert run("assert executor.submit(abs, -1).result() == 1")["status"] == "ok"
        assert run("executor.shutdown(kill=True)")["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
