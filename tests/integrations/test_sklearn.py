"""scikit-learn on unirun, through joblib: with the real packages."""

import threading
from typing import Any

import pytest
from integrations.waiting import eventually

import unirun
from unirun import Executor

joblib = pytest.importorskip("joblib", reason="joblib is not installed: make test-integrations")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: make test-integrations")

from joblib import parallel_config  # noqa: E402

pytestmark = [pytest.mark.integrations, pytest.mark.usefixtures("registered")]
PATIENCE = 20.0


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    data = datasets.load_digits(n_class=3)
    return data.data, data.target


def search(**how: Any) -> Any:
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(random_state=0)
    return GridSearchCV(tree, {"max_depth": [1, 2, 3], "min_samples_leaf": [1, 4]}, cv=2, **how)


def test_a_grid_search_finds_what_it_finds_by_itself(
    on_processes: Executor, digits: tuple[Any, Any]
) -> None:
    here = on_processes.stats()["process"].finished
    there = search(n_jobs=2).fit(*digits)
    ran = on_processes.stats()["process"].finished - here
    with parallel_config("sequential"):
        alone = search(n_jobs=1).fit(*digits)

    assert ran > 0
    assert there.best_params_ == alone.best_params_
    assert (there.cv_results_["mean_test_score"] == alone.cv_results_["mean_test_score"]).all()


def test_a_forest_inside_a_grid_search_has_its_threads(
    on_processes: Executor, digits: tuple[Any, Any]
) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    forest = RandomForestClassifier(n_estimators=4, n_jobs=2, random_state=0)

    assert cross_val_score(forest, *digits, cv=2, n_jobs=2).min() > 0.8


def hanging_score(estimator: Any, X: Any, y: Any) -> float:
    threading.Event().wait()
    return 0.0


def test_a_grid_search_that_hangs_is_ended_by_its_timeout(
    executor: Executor, digits: tuple[Any, Any]
) -> None:
    with (
        parallel_config("unirun", n_jobs=2, executor=executor, timeout=8),
        pytest.raises(unirun.TaskTimeout, match="_fit_and_score"),
    ):
        search(scoring=hanging_score).fit(*digits)
    with parallel_config("unirun", n_jobs=2, executor=executor, timeout=PATIENCE):
        assert search().fit(*digits).best_score_ > 0.8


def test_a_grid_search_can_be_killed(on_processes: Executor, digits: tuple[Any, Any]) -> None:
    def kill() -> None:
        eventually(lambda: on_processes.stats()["process"].running == 2)
        on_processes.kill_workers()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(unirun.TaskKilled):
        search(scoring=hanging_score, n_jobs=2).fit(*digits)
    killer.join()
    assert search(n_jobs=2).fit(*digits).best_score_ > 0.8
