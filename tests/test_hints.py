"""The rule that turns hints and facts into a backend, as a table, and what it refuses."""

import itertools
import pickle
from collections.abc import Iterator

import pytest

import unirun
from unirun import Kind, Requirement, UnsupportedByBackend
from unirun._hints import DEFAULT_ROUTES, OFFERS, Decision, Facts, Hint, check_hint, choose
from unirun._records import replace

KINDS = tuple(kind.value for kind in Kind)
BACKENDS = tuple(OFFERS)
REQUIREMENTS = [
    frozenset(wish)
    for size in range(len(Requirement) + 1)
    for wish in itertools.combinations([r.value for r in Requirement], size)
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


def everything() -> Iterator[tuple[Hint, Facts]]:
    """Every mix of hint and facts that there is."""
    hints = itertools.product(KINDS, (None, *BACKENDS), REQUIREMENTS)
    booleans = list(itertools.product((False, True), repeat=3))
    for kind, backend, require in hints:
        for forced, fixed in itertools.product((None, *BACKENDS), repeat=2):
            for rest in booleans:
                yield Hint(kind, backend, require), Facts(forced, fixed, *rest)


# -- kinds ----------------------------------------------------------------------------------------

GIL, FREE, WORKER = Facts(), Facts(free_threaded=True), Facts(in_worker_process=True)
COROUTINE = Facts(is_coroutine_function=True)
COROUTINE_IN_WORKER = Facts(is_coroutine_function=True, in_worker_process=True)

# One row a kind, one column a place.
PLACES = (GIL, FREE, WORKER, COROUTINE, COROUTINE_IN_WORKER)
ROUTED = {
    "auto": ("thread", "thread", "thread", "coroutine", "coroutine"),
    "cpu": ("process", "thread", "thread", "process", "thread"),
    "io": ("thread", "thread", "thread", "coroutine", "coroutine"),
    "native": ("thread", "thread", "thread", "coroutine", "coroutine"),
    "async": ("coroutine", "coroutine", "coroutine", "coroutine", "coroutine"),
    "isolated": ("process", "process", "process", "process", "process"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_goes_where_it_belongs(kind: str) -> None:
    chosen = tuple(choose(Hint(kind), DEFAULT_ROUTES, facts).backend for facts in PLACES)
    assert chosen == ROUTED[kind]


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
    frozenset({"sharedmem"}): {**dict.fromkeys(KINDS, "thread"), "async": "coroutine"},
}


@pytest.mark.parametrize("require", REQUIRED, ids=lambda wish: "+".join(sorted(wish)))
@pytest.mark.parametrize("kind", KINDS)
def test_a_requirement_overrules_the_kind(kind: str, require: frozenset[str]) -> None:
    assert where(kind, require=require) == REQUIRED[require][kind]


@pytest.mark.parametrize("facts", PLACES, ids=str)
def test_a_killable_call_is_in_a_process_whatever_the_place(facts: Facts) -> None:
    hint = Hint("cpu", require=frozenset({"killable"}))
    assert choose(hint, DEFAULT_ROUTES, facts).backend == "process"


@pytest.mark.parametrize("asked", ["backend", "fixed", "forced"])
@pytest.mark.parametrize(
    ("backend", "wish"),
    [(b, r.value) for b in BACKENDS for r in Requirement if r.value not in OFFERS[b]],
)
def test_a_backend_that_lacks_what_is_required_is_refused(
    asked: str, backend: str, wish: str
) -> None:
    with pytest.raises(UnsupportedByBackend) as caught:
        where(require={wish}, **{asked: backend})
    text = str(caught.value)
    assert text.startswith(f"the {backend!r} backend cannot offer {wish}; drop the requirement")
    assert backend in text.partition(";")[2], "it says who chose the backend"


@pytest.mark.parametrize("asked", ["backend", "fixed", "forced"])
def test_what_a_backend_from_elsewhere_offers_is_not_judged_here(asked: str) -> None:
    assert where(require={"killable", "sharedmem"}, **{asked: "elsewhere"}) == "elsewhere"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", ["killable", "isolation"])
def test_what_no_backend_offers_together_is_refused(kind: str, other: str) -> None:
    require = frozenset({"sharedmem", other})
    with pytest.raises(UnsupportedByBackend, match="cannot offer"):
        where(kind, require=require)
    with pytest.raises(UnsupportedByBackend, match=f"{other}.*together|sharedmem.*together"):
        check_hint(Hint(kind, require=require))


# -- every mix ------------------------------------------------------------------------------------


def test_every_choice_keeps_its_promises() -> None:
    refused = 0
    for hint, facts in everything():
        try:
            decision = choose(hint, DEFAULT_ROUTES, facts)
        except UnsupportedByBackend:
            refused += 1
            assert hint.require or hint.backend not in (None, facts.fixed)
            continue
        assert hint.require <= OFFERS[decision.backend]
        hard = facts.forced or facts.fixed or hint.backend
        assert decision.backend == (hard or decision.backend)
        assert decision.reasons
        assert decision == choose(hint, DEFAULT_ROUTES, facts), "it depends on nothing else"
    assert refused > 0


def test_what_check_hint_lets_pass_has_a_place_and_what_it_refuses_has_none() -> None:
    for kind, backend, require in itertools.product(KINDS, (None, *BACKENDS), REQUIREMENTS):
        hint = Hint(kind, backend, require)
        try:
            check_hint(hint)
        except UnsupportedByBackend:
            with pytest.raises(UnsupportedByBackend):
                choose(hint, DEFAULT_ROUTES, GIL)
        else:
            assert require <= OFFERS[choose(hint, DEFAULT_ROUTES, GIL).backend]


# -- reasons --------------------------------------------------------------------------------------


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
            WORKER,
            [
                "kind='cpu'",
                "kind 'cpu' is routed to 'process'",
                "already inside a worker process; more processes would only compete",
            ],
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
        assert hash(value) == hash(replace(value))
        with pytest.raises(AttributeError):
            setattr(value, value.__slots__[0], "thread")


# -- the same rule through the executor -----------------------------------------------------------


async def coroutine() -> None: ...


def function() -> None: ...


@pytest.mark.parametrize(
    ("made_with", "given", "called", "backend"),
    [
        ({}, {}, function, "thread"),
        ({}, {}, coroutine, "coroutine"),
        ({"kind": "cpu"}, {}, function, "process"),
        ({"kind": "cpu"}, {"kind": "io"}, function, "thread"),
        ({}, {"killable": True}, function, "process"),
        ({}, {"require": {"isolation"}}, coroutine, "process"),
        ({"backend": "inline"}, {"kind": "cpu"}, function, "inline"),
        ({}, {"backend": "inline"}, coroutine, "inline"),
        ({"kind": "cpu"}, {}, unirun.task(kind="io")(function), "thread"),
    ],
)
def test_an_executor_chooses_by_this_rule(
    made_with: dict[str, str], given: dict[str, object], called: object, backend: str
) -> None:
    with unirun.Executor(**made_with) as executor:  # type: ignore[arg-type]
        view = executor.options(**given)
        assert view.explain(called).backend == backend  # type: ignore[arg-type]
        assert executor.stats() == {}, "explaining starts nothing"


@pytest.mark.parametrize(
    ("made_with", "given"),
    [
        ({"backend": "thread"}, {"killable": True}),
        ({"backend": "thread"}, {"backend": "process"}),
        ({"backend": "process"}, {"require": {"sharedmem"}}),
        ({}, {"require": {"sharedmem", "isolation"}}),
        ({}, {"backend": "coroutine", "require": ["killable"]}),
    ],
)
def test_an_executor_refuses_an_impossible_mix_before_anything_is_queued(
    made_with: dict[str, str], given: dict[str, object]
) -> None:
    with unirun.Executor(**made_with) as executor:  # type: ignore[arg-type]
        with pytest.raises(UnsupportedByBackend):
            executor.options(**given).submit(function)
        assert executor.stats() == {}
