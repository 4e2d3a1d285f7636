"""The rule that turns hints and facts into a backend, as a table, and what it refuses."""

import itertools
import pickle
from collections.abc import Iterator

import pytest

from unirun import Kind, Requirement, UnsupportedByBackend
from unirun._hints import (
    COMPUTES,
    DEFAULT_ROUTES,
    OFFERS,
    Decision,
    Facts,
    Hint,
    check_hint,
    choose,
    default_workers,
    pool_of,
    required,
)
from unirun._records import replace
from unirun._registry import load

pytestmark = pytest.mark.usefixtures("here")

KINDS = tuple(kind.value for kind in Kind)
BACKENDS = tuple(OFFERS)
WISHES = (*(requirement.value for requirement in Requirement), "memory")
REQUIREMENTS = [
    frozenset(wish) for size in range(5) for wish in itertools.combinations(WISHES, size)
]


def where(
    kind: str = "auto",
    backend: str | None = None,
    require: set[str] | frozenset[str] = frozenset(),
    **facts: str | bool | None,
) -> str:
    """The backend with the default routes."""
    hint = Hint(kind, backend, frozenset(require))
    return choose(hint, DEFAULT_ROUTES, Facts(**facts)).backend  # type: ignore[arg-type]


# -- kinds ----------------------------------------------------------------------------------------

GIL, WORKER = Facts(), Facts(in_worker_process=True)
FREE = Facts(gil=False, free_threaded=True)
FREE_WITH_GIL = Facts(free_threaded=True)
COROUTINE = Facts(is_coroutine_function=True)
COROUTINE_IN_WORKER = Facts(is_coroutine_function=True, in_worker_process=True)
COROUTINE_FREE = Facts(is_coroutine_function=True, gil=False, free_threaded=True)

# One row a kind, one column a place.
PLACES = (GIL, FREE, FREE_WITH_GIL, WORKER, COROUTINE, COROUTINE_FREE, COROUTINE_IN_WORKER)
T, P, C = "thread", "process", "coroutine"
ROUTED = {
    "auto": (T, T, T, T, C, C, C),
    "cpu": (P, T, P, T, P, T, T),
    "io": (T, T, T, T, C, C, C),
    "native": (T, T, T, T, C, C, C),
    "async": (C, C, C, C, C, C, C),
    "isolated": (P, P, P, P, P, P, P),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_goes_where_it_belongs(kind: str) -> None:
    chosen = tuple(choose(Hint(kind), DEFAULT_ROUTES, facts).backend for facts in PLACES)
    assert chosen == ROUTED[kind]


# -- every mix ------------------------------------------------------------------------------------

# Written down once more, by hand: what each backend can do.
CAN = {
    "inline": set[str](),
    "thread": {"sharedmem"},
    "coroutine": {"sharedmem"},
    "process": {"killable", "isolation", "memory"},
}


def expected(hint: Hint, facts: Facts) -> str | None:
    """The backend by the tables of this file; None: refused."""
    both = facts.forced is None and None not in (facts.fixed, hint.backend)
    if both and facts.fixed != hint.backend:
        return None
    told = facts.forced or facts.fixed or hint.backend
    if told is not None:
        return told if hint.require <= CAN[told] else None
    inside = WORKER if facts.in_worker_process else GIL
    if facts.is_coroutine_function:
        inside = COROUTINE_IN_WORKER if facts.in_worker_process else COROUTINE
    column = PLACES.index(inside)
    if not facts.gil:
        column = PLACES.index(COROUTINE_FREE if facts.is_coroutine_function else FREE)
    usual = ROUTED[hint.kind][column]
    if facts.own_route and hint.kind == "cpu":
        usual = P
    for place in (usual, T, P):
        if hint.require <= CAN[place]:
            return place
    return None


def every_fact() -> Iterator[Facts]:
    names = (None, *BACKENDS)
    switches = itertools.product((False, True), repeat=3)
    for coroutine, worker, own in switches:
        for gil, free_threaded in ((True, False), (True, True), (False, True)):
            for forced, fixed in itertools.product(names, names):
                yield Facts(
                    forced=forced,
                    fixed=fixed,
                    is_coroutine_function=coroutine,
                    gil=gil,
                    free_threaded=free_threaded,
                    in_worker_process=worker,
                    own_route=own,
                    cores=4,
                )


FACTS = list(every_fact())


@pytest.mark.parametrize("require", REQUIREMENTS, ids=lambda wish: "+".join(sorted(wish)) or "-")
def test_every_mix_there_is_goes_where_the_tables_say(require: frozenset[str]) -> None:
    for kind, backend in itertools.product(KINDS, (None, *BACKENDS)):
        hint = Hint(kind, backend, require)
        for facts in FACTS:
            found: str | None
            try:
                decision = choose(hint, DEFAULT_ROUTES, facts)
            except UnsupportedByBackend:
                found = None
            else:
                found = decision.backend
                assert decision.reasons
            assert found == expected(hint, facts), (hint, facts)


def test_the_rule_depends_on_nothing_else_and_cores_decide_no_backend() -> None:
    for kind, facts in itertools.product(KINDS, FACTS):
        one = choose(Hint(kind), DEFAULT_ROUTES, replace(facts, cores=1))
        many = choose(Hint(kind), DEFAULT_ROUTES, replace(facts, cores=64))
        assert one.backend == many.backend
        assert one.reasons == many.reasons
        assert many == choose(Hint(kind), DEFAULT_ROUTES, replace(facts, cores=64))
    assert len(FACTS) == 600


def test_what_the_tables_say_backends_can_do_is_what_their_classes_say() -> None:
    for name, can in CAN.items():
        assert set(map(str, load(name).capabilities)) & set(WISHES) == can == OFFERS[name]


# -- routes ---------------------------------------------------------------------------------------


def test_every_kind_has_a_route_to_a_backend_that_there_is() -> None:
    assert set(DEFAULT_ROUTES) == set(KINDS) == set(ROUTED)
    assert set(DEFAULT_ROUTES.values()) <= set(BACKENDS)


def test_a_kind_and_a_requirement_are_plain_strings_too() -> None:
    assert where(Kind.CPU) == where("cpu") == "process"
    assert where(require={Requirement.KILLABLE}) == where(require={"killable"}) == "process"
    assert pickle.loads(pickle.dumps(Kind.CPU)) is Kind.CPU


@pytest.mark.parametrize("kind", KINDS)
def test_routes_decide_and_may_name_any_backend(kind: str) -> None:
    routes = {**DEFAULT_ROUTES, kind: "elsewhere"}
    assert choose(Hint(kind), routes, GIL).backend == "elsewhere"
    others = [other for other in KINDS if other != kind]
    assert [choose(Hint(k), routes, GIL).backend for k in others] == [where(k) for k in others]


def test_a_cpu_route_of_the_users_own_is_kept_without_a_gil_and_in_a_worker() -> None:
    routes = {**DEFAULT_ROUTES, "cpu": "elsewhere"}
    for facts in (GIL, FREE, WORKER):
        assert choose(Hint("cpu"), routes, facts).backend == "elsewhere"
        own = replace(facts, own_route=True)
        assert choose(Hint("cpu"), DEFAULT_ROUTES, own).backend == "process"


ELSEWHERE = {**OFFERS, "elsewhere": frozenset({"isolation"})}


@pytest.mark.parametrize(
    ("require", "backend"),
    [
        (set(), "elsewhere"),
        ({"isolation"}, "elsewhere"),
        ({"killable"}, "process"),
        ({"isolation", "memory"}, "process"),
        ({"sharedmem"}, "thread"),
    ],
)
def test_a_backend_from_elsewhere_gets_what_it_offers_and_no_more(
    require: set[str], backend: str
) -> None:
    facts = Facts(offers=ELSEWHERE)
    routes = {**DEFAULT_ROUTES, "cpu": "elsewhere"}
    hint = Hint("cpu", require=frozenset(require))
    assert choose(hint, routes, facts).backend == backend


@pytest.mark.parametrize("asked", ["backend", "fixed", "forced"])
def test_a_backend_from_elsewhere_that_cannot_is_refused_where_that_is_known(asked: str) -> None:
    facts: dict[str, object] = {"offers": ELSEWHERE}
    backend = "elsewhere" if asked == "backend" else None
    if asked != "backend":
        facts[asked] = "elsewhere"
    hint = Hint(backend=backend, require=frozenset({"killable"}))
    with pytest.raises(UnsupportedByBackend, match="'elsewhere' backend cannot offer killable"):
        where(backend=backend, require={"killable"}, **facts)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedByBackend, match="'elsewhere' backend cannot offer killable"):
        check_hint(hint, Facts(**facts))  # type: ignore[arg-type]


# -- who has the last word ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_that_is_asked_for_is_taken_whatever_the_kind(kind: str, backend: str) -> None:
    for facts in PLACES:
        assert choose(Hint(kind, backend), DEFAULT_ROUTES, facts).backend == backend


@pytest.mark.parametrize("fixed", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_executor_made_for_a_backend_keeps_to_it(kind: str, fixed: str) -> None:
    assert where(kind, fixed=fixed) == fixed
    assert where(kind, fixed, fixed=fixed) == fixed


@pytest.mark.parametrize(("fixed", "wanted"), list(itertools.permutations(BACKENDS, 2)))
def test_a_call_cannot_demand_another_backend_than_its_executor_has(
    fixed: str, wanted: str
) -> None:
    with pytest.raises(UnsupportedByBackend) as caught:
        where(backend=wanted, fixed=fixed)
    assert str(caught.value) == (
        f"the {fixed!r} backend cannot run a call that demands backend={wanted!r}; "
        "submit it to an executor without backend=, or drop one of the two"
    )


@pytest.mark.parametrize("forced", BACKENDS)
def test_what_the_environment_forces_overrules_all_of_them(forced: str) -> None:
    for kind, wanted, fixed in itertools.product(KINDS, (None, *BACKENDS), (None, *BACKENDS)):
        assert where(kind, wanted, forced=forced, fixed=fixed) == forced


# -- requirements ---------------------------------------------------------------------------------

# What no backend was asked for goes to, for each kind.
REQUIRED = {
    frozenset({"killable"}): dict.fromkeys(KINDS, "process"),
    frozenset({"isolation"}): dict.fromkeys(KINDS, "process"),
    frozenset({"killable", "isolation"}): dict.fromkeys(KINDS, "process"),
    frozenset({"memory"}): dict.fromkeys(KINDS, "process"),
    frozenset({"sharedmem"}): {**dict.fromkeys(KINDS, "thread"), "async": "coroutine"},
}


@pytest.mark.parametrize("require", REQUIRED, ids=lambda wish: "+".join(sorted(wish)))
@pytest.mark.parametrize("kind", KINDS)
def test_a_requirement_overrules_the_kind(kind: str, require: frozenset[str]) -> None:
    assert where(kind, require=require) == REQUIRED[require][kind]


@pytest.mark.parametrize("facts", PLACES, ids=range(len(PLACES)))
def test_a_killable_call_is_in_a_process_whatever_the_place(facts: Facts) -> None:
    hint = Hint("cpu", require=frozenset({"killable"}))
    assert choose(hint, DEFAULT_ROUTES, facts).backend == "process"


@pytest.mark.parametrize("asked", ["backend", "fixed", "forced"])
@pytest.mark.parametrize(
    ("backend", "wish"),
    [(backend, wish) for backend in BACKENDS for wish in WISHES if wish not in OFFERS[backend]],
)
def test_a_backend_that_lacks_what_is_required_is_refused(
    asked: str, backend: str, wish: str
) -> None:
    with pytest.raises(UnsupportedByBackend) as caught:
        where(require={wish}, **{asked: backend})
    text = str(caught.value)
    what = "limit the memory of a call; drop memory=" if wish == "memory" else f"offer {wish}; drop"
    assert text.startswith(f"the {backend!r} backend cannot {what}")
    assert backend in text.partition(";")[2], "it says who chose the backend"


@pytest.mark.parametrize("asked", ["backend", "fixed", "forced"])
def test_what_a_backend_from_elsewhere_offers_is_not_judged_here(asked: str) -> None:
    assert where(require={"killable", "sharedmem"}, **{asked: "elsewhere"}) == "elsewhere"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["killable", "isolation", "memory"])
def test_what_no_backend_offers_together_is_refused(kind: str, other: str) -> None:
    require = frozenset({"sharedmem", other})
    together = "cannot keep require=.*sharedmem.* together; no backend can; drop one of them"
    with pytest.raises(UnsupportedByBackend, match=together):
        where(kind, require=require)
    with pytest.raises(UnsupportedByBackend, match=together):
        check_hint(Hint(kind, require=require))


def test_what_check_hint_lets_pass_has_a_place_and_what_it_refuses_has_none() -> None:
    for kind, backend, require in itertools.product(KINDS, (None, *BACKENDS), REQUIREMENTS):
        hint = Hint(kind, backend, require)
        for facts in FACTS[:25]:  # those that differ in who is forced and fixed
            found: str | None = None
            try:
                check_hint(hint, facts)
                found = choose(hint, DEFAULT_ROUTES, facts).backend
            except UnsupportedByBackend:
                found = None
            assert found == expected(hint, facts), (hint, facts)


@pytest.mark.parametrize(
    ("options", "wishes"),
    [
        ({}, set()),
        ({"killable": False, "memory": None, "require": frozenset()}, set()),
        ({"killable": True}, {"killable"}),
        ({"memory": 1}, {"memory"}),
        ({"require": frozenset({"isolation"}), "killable": True}, {"isolation", "killable"}),
    ],
)
def test_options_require_what_only_some_backends_have(
    options: dict[str, object], wishes: set[str]
) -> None:
    assert required(options) == wishes


# -- how many workers -----------------------------------------------------------------------------

# One row a kind on each backend; 1, 2, 8 and 64 cores.
WORKERS = {
    ("thread", "auto"): (5, 6, 12, 32),
    ("thread", "cpu"): (1, 2, 8, 64),
    ("thread", "io"): (5, 6, 12, 32),
    ("thread", "native"): (1, 2, 8, 64),
    ("thread", "async"): (5, 6, 12, 32),
    ("thread", "isolated"): (5, 6, 12, 32),
    **{("process", kind): (1, 2, 8, 64) for kind in KINDS},
    **{("inline", kind): (1, 1, 1, 1) for kind in KINDS},
    **{("coroutine", kind): (None,) * 4 for kind in KINDS},
    **{("elsewhere", kind): (None,) * 4 for kind in KINDS},
}


@pytest.mark.parametrize(("backend", "kind"), WORKERS)
def test_who_computes_gets_a_worker_for_each_core_and_who_waits_gets_more(
    backend: str, kind: str
) -> None:
    numbers = tuple(default_workers(backend, kind, cores) for cores in (1, 2, 8, 64))
    assert numbers == WORKERS[backend, kind]
    if numbers[0] is not None and backend in BACKENDS:
        decision = choose(Hint(kind, backend), DEFAULT_ROUTES, Facts(cores=8))
        assert decision.workers == numbers[2]


def test_threads_that_compute_are_a_pool_of_their_own() -> None:
    apart = {kind for kind in KINDS if pool_of("thread", kind) != "thread"}
    assert apart == COMPUTES == {"cpu", "native"}
    others = [backend for backend in BACKENDS if backend != "thread"]
    assert all(pool_of(backend, kind) == backend for backend in others for kind in KINDS)


# -- reasons --------------------------------------------------------------------------------------


HAS_ITS_GIL = (
    "this free-threaded Python runs with its GIL (PYTHON_GIL=1, -X gil=1 or an extension module), "
    "so threads would not compute in parallel"
)


@pytest.mark.parametrize(
    ("hint", "facts", "reasons"),
    [
        (Hint(), Facts(forced="inline"), ["UNIRUN_BACKEND=inline forces every call"]),
        (Hint(), Facts(fixed="thread"), ["the executor was made with backend='thread'"]),
        (Hint(backend="process"), GIL, ["backend='process' was asked for"]),
        (Hint("cpu"), GIL, ["kind='cpu'", "kind 'cpu' is routed to 'process'"]),
        (
            Hint("cpu"),
            FREE,
            [
                "kind='cpu'",
                "kind 'cpu' is routed to 'process'",
                "this Python has no GIL, so threads compute in parallel",
            ],
        ),
        (
            Hint("cpu"),
            FREE_WITH_GIL,
            [
                "kind='cpu'",
                "kind 'cpu' is routed to 'process'",
                HAS_ITS_GIL,
            ],
        ),
        (
            Hint("cpu"),
            WORKER,
            [
                "kind='cpu'",
                "kind 'cpu' is routed to 'process'",
                "already inside a worker process; more processes would only compete",
            ],
        ),
        (
            Hint("cpu", require=frozenset({"killable"})),
            WORKER,
            ["kind='cpu'", "kind 'cpu' is routed to 'process'"],
        ),
        (
            Hint(),
            COROUTINE,
            [
                "kind='auto'",
                "the function is a coroutine function",
                "kind 'async' is routed to 'coroutine'",
            ],
        ),
        (
            Hint("io", require=frozenset({"isolation", "killable"})),
            GIL,
            [
                "kind='io'",
                "kind 'io' is routed to 'thread'",
                "require={isolation, killable} needs 'process'",
            ],
        ),
        (
            Hint("io", require=frozenset({"memory"})),
            GIL,
            ["kind='io'", "kind 'io' is routed to 'thread'", "memory= needs 'process'"],
        ),
        (
            Hint("native", require=frozenset({"memory", "killable"})),
            GIL,
            [
                "kind='native'",
                "kind 'native' is routed to 'thread'",
                "require={killable} and memory= needs 'process'",
            ],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_decision_gives_its_reasons(hint: Hint, facts: Facts, reasons: list[str]) -> None:
    decision = choose(hint, DEFAULT_ROUTES, facts)
    assert list(decision.reasons) == reasons
    lines = [f"backend: {decision.backend}", *(f"  - {reason}" for reason in reasons)]
    assert str(decision) == "\n".join(lines)


def test_hints_facts_and_decisions_are_values() -> None:
    for value in (Hint(), Facts(), Decision("inline", ())):
        assert pickle.loads(pickle.dumps(value)) == value
        assert value == replace(value)
        with pytest.raises(AttributeError):
            setattr(value, value.__slots__[0], "thread")
