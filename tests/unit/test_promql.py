"""The names in PromQL expressions, which other tests compare with what the running stack exports."""

import pytest

from tests.promql import Named, matched_in, named_in


def test_metrics_matchers_and_clauses_are_found() -> None:
    expression = """
        # what(this) says {counts} for nothing
        histogram_quantile(0.9, sum by (le, task_type) (rate(runs_bucket{job=~"$job", kind="a b", le!="1"}[5m]))) > 20
        unless ignoring (queue) max without (pod) (min_over_time(due[10m] offset 15m)) >= 4000
        or absent(job:ratio:rate5m) and on () vector(1) == bool 1
    """
    assert named_in(expression) == [
        Named("runs_bucket", {"le", "task_type", "job", "kind"}, {"kind": "a b"}),
        Named("due", {"pod"}),
        Named("job:ratio:rate5m"),
    ]
    assert matched_in(expression) == {"queue"}


def test_numbers_durations_and_functions_are_no_metrics() -> None:
    assert named_in("clamp_min(3 * 1e3, 120) + time() offset 5m") == []
    assert [one.metric for one in named_in("sum(a) / (sum(b) > 0)")] == ["a", "b"]


@pytest.mark.parametrize("expression", ["sum(a) by (b)", "a ? b", 'a{b="c}'])
def test_what_cannot_be_read_is_an_error(expression: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read|after its argument"):
        named_in(expression)
