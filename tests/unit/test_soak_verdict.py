"""The verdict of the soak: one that never finds anything is worth nothing."""

import ast
import inspect

import pytest

from tests.soak import database, reading, redis_contents, watch
from tests.soak.bounds import BOUNDS, MEBIBYTE, UNITS_OF_OTHERS
from tests.soak.plan import HOUR, SHORT, Plan
from tests.soak.series import Series
from tests.soak.verdict import Judgement, Terms, Verdict, judge, judge_all

TERMS = Terms(warm_up=600, least=900)
#: Of the memory of a process, in bytes an hour.
ALLOWED = 4 * MEBIBYTE
EVERY = 10


def series(
    an_hour: float, *, minutes: float = 60, measure: str = "resident memory", start: float = 90.0 * MEBIBYTE
) -> Series:
    """Return a figure that is read every 10 s and grows by so much an hour."""
    times = range(0, int(minutes * 60) + 1, EVERY)
    return Series("worker-001 process 1", measure, tuple((at, start + an_hour * at / 3600) for at in times))


def verdict(an_hour: float, *, terms: Terms = TERMS, **given: float) -> Verdict:
    return judge(series(an_hour, **given), terms).verdict  # type: ignore[arg-type] # the measure is not given here


@pytest.mark.parametrize(
    ("an_hour", "said"),
    [
        (0, Verdict.FLAT),
        (ALLOWED * 0.99, Verdict.FLAT),
        (ALLOWED * 1.01, Verdict.GROWS),
        (60 * MEBIBYTE, Verdict.GROWS),
    ],
)
def test_what_grows_by_more_than_its_bound_is_found(an_hour: float, said: Verdict) -> None:
    assert verdict(an_hour) is said


def test_what_falls_is_flat() -> None:
    assert verdict(-10 * ALLOWED) is Verdict.FLAT


def test_what_grew_while_it_warmed_up_is_not_held_against_it() -> None:
    times = range(0, 3600, EVERY)
    warming = Series("worker-001", "threads", tuple((at, min(at / 60, 10.0)) for at in times))

    assert judge(warming, TERMS).verdict is Verdict.FLAT
    assert judge(warming, Terms(warm_up=0, least=900)).verdict is Verdict.FLAT, "most of the hour it was flat"
    assert judge(warming.after(0), Terms(warm_up=0, least=900)).first == 0
    assert judge(warming, TERMS).first == 10


def test_what_goes_on_growing_after_its_warm_up_is_found() -> None:
    times = range(0, 3600, EVERY)
    leaking = Series("worker-001", "threads", tuple((at, 10.0 + max(at - 600, 0) / 600) for at in times))

    assert judge(leaking, TERMS).verdict is Verdict.GROWS


@pytest.mark.parametrize(("minutes", "said"), [(24, Verdict.TOO_SHORT), (25, Verdict.GROWS), (26, Verdict.GROWS)])
def test_a_process_that_was_replaced_early_is_not_judged(minutes: float, said: Verdict) -> None:
    assert verdict(60 * MEBIBYTE, minutes=minutes) is said


def test_one_descriptor_left_by_each_fault_is_found() -> None:
    leaves = Series("worker-001", "descriptors", tuple((at, 26.0 + at // 300) for at in range(0, 3600, EVERY)))

    assert judge(leaves, TERMS).verdict is Verdict.GROWS


def test_one_more_descriptor_at_some_time_is_no_leak() -> None:
    step = Series("worker-001", "descriptors", tuple((at, 26.0 + (at > 2000)) for at in range(0, 3600, EVERY)))

    assert judge(step, TERMS).verdict is Verdict.FLAT


def test_the_bound_of_what_is_large_is_a_share_of_it() -> None:
    large = series(15 * MEBIBYTE, measure="size", start=100.0 * MEBIBYTE)
    small = series(15 * MEBIBYTE, measure="size", start=10.0 * MEBIBYTE)

    assert judge(large, TERMS).verdict is Verdict.FLAT
    assert judge(small, TERMS).verdict is Verdict.GROWS


def test_the_short_form_finds_what_grows_so_much_more_quickly() -> None:
    terms = Terms(warm_up=20, least=20, slack=100)

    assert verdict(99 * ALLOWED, terms=terms, minutes=1) is Verdict.FLAT
    assert verdict(101 * ALLOWED, terms=terms, minutes=1) is Verdict.GROWS


def test_a_finding_says_how_much_in_its_unit() -> None:
    said = "worker-001 process 1: resident memory grows by 60.00 MiB an hour, allowed are 4.00"

    assert str(judge(series(60 * MEBIBYTE), TERMS)) == said


def test_what_grows_by_design_is_shown() -> None:
    growing = Series("conversations", "rows", tuple((float(at), 10.0 * at) for at in range(0, 3600, EVERY)))
    terms = Terms(warm_up=600, least=900, growing=frozenset({("conversations", "rows")}))

    assert judge(growing, TERMS).verdict is Verdict.GROWS
    assert judge(growing, terms).verdict is Verdict.SHOWN


def test_the_figures_of_a_series_are_those_after_its_warm_up() -> None:
    times = range(0, 3600, EVERY)
    points = tuple((at, 5000.0 if at < 600 else 7.0 + (at == 1800) - (at == 2400)) for at in times)

    told = judge(Series("Redis", "keys", points), TERMS)

    assert (told.first, told.last, told.least, told.most, told.slope) == (7, 7, 6, 8, 0)


def test_a_series_of_one_value_is_too_short() -> None:
    said: list[Judgement] = judge_all([Series("Redis (2)", "keys", ((5.0, 1.0),))], TERMS)

    assert [one.verdict for one in said] == [Verdict.TOO_SHORT]


def test_every_figure_that_is_read_has_a_bound_or_a_reason_for_none() -> None:
    trees = [ast.parse(inspect.getsource(module)) for module in (database, reading, redis_contents, watch)]
    pairs = [node.elts for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Tuple)]
    # Names are pairs of a thing and a figure, and no other pair of these modules ends in a text.
    measures = {pair[1].value for pair in pairs if len(pair) == 2 and isinstance(pair[1], ast.Constant)}

    assert {measure for measure in measures if isinstance(measure, str)} == BOUNDS.keys() | UNITS_OF_OTHERS.keys()


@pytest.mark.parametrize("plan", [HOUR, SHORT], ids=lambda plan: plan.name)
def test_the_last_restart_of_each_server_leaves_time_to_judge_what_comes_after_it(plan: Plan) -> None:
    restarts = [at for at, fault in plan.faults if "restarted" in fault.name]

    assert plan.length - max(restarts, default=0) >= plan.terms.warm_up + plan.terms.least


@pytest.mark.parametrize("plan", [HOUR, SHORT], ids=lambda plan: plan.name)
def test_one_of_two_workers_lives_long_enough_to_be_judged(plan: Plan) -> None:
    deaths = [at for at, fault in plan.faults if fault.name.startswith("worker")]
    # Each kills one of two, which may be the one that was there longest.
    since = deaths[-2] if len(deaths) > 1 else 0

    assert plan.length - since >= plan.terms.warm_up + plan.terms.least


@pytest.mark.parametrize("plan", [HOUR, SHORT], ids=lambda plan: plan.name)
def test_all_faults_come_within_the_run(plan: Plan) -> None:
    assert all(0 < at < plan.length for at, _ in plan.faults)
