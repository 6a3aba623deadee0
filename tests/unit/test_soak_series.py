"""What the soak keeps of its readings, and how it says how quickly a figure grows."""

import io
from pathlib import Path

import pytest

from tests.soak.series import Sample, read, series_of, slope_of, write


def line(length: int, *, growth: float = 0.0, start: float = 100.0) -> list[tuple[float, float]]:
    """Return a value every 10 s that grows by so much a second."""
    return [(at, start + growth * at) for at in range(0, 10 * length, 10)]


@pytest.mark.parametrize("growth", [-2.0, 0.0, 0.5])
def test_the_slope_of_a_line_is_its_growth(growth: float) -> None:
    assert slope_of(line(50, growth=growth)) == pytest.approx(growth)


@pytest.mark.parametrize("points", [[], [(0.0, 5.0)], [(3.0, 5.0), (3.0, 9.0)]])
def test_what_has_no_two_times_has_no_slope(points: list[tuple[float, float]]) -> None:
    assert slope_of(points) == 0


def test_what_a_fault_does_for_a_while_does_not_count() -> None:
    quiet = line(100)
    for place in range(60, 85):
        quiet[place] = (quiet[place][0], 100_000.0)

    assert slope_of(quiet) == 0


def test_a_leak_shows_through_what_a_fault_does_for_a_while() -> None:
    leaking = line(100, growth=0.5)
    for place in range(40, 55):
        leaking[place] = (leaking[place][0], 0.0)

    assert slope_of(leaking) == pytest.approx(0.5, rel=0.1)


def test_a_saw_that_comes_back_to_where_it_was_is_flat() -> None:
    saw = [(float(at), float(at % 60)) for at in range(0, 3600, 10)]

    assert abs(slope_of(saw)) * 3600 < 1


def test_the_process_that_replaced_another_begins_a_series_of_its_own() -> None:
    samples = [Sample(at, {("worker-001", "threads"): 15.0}) for at in (0.0, 10.0)]
    samples += [Sample(at, {("worker-002", "threads"): 12.0}) for at in (20.0, 30.0)]

    assert [(one.subject, one.points) for one in series_of(samples)] == [
        ("worker-001", ((0.0, 15.0), (10.0, 15.0))),
        ("worker-002", ((20.0, 12.0), (30.0, 12.0))),
    ]


def test_what_could_not_be_read_is_a_gap() -> None:
    samples = [Sample(0, {("Redis", "keys"): 3.0}), Sample(10, {}), Sample(20, {("Redis", "keys"): 4.0})]

    assert series_of(samples)[0].points == ((0, 3.0), (20, 4.0))


def test_the_figures_of_a_thing_stand_together() -> None:
    samples = [
        Sample(0, {("Redis", "keys"): 3.0, ("worker-001", "threads"): 15.0}),
        Sample(10, {("worker-001", "descriptors"): 26.0, ("Redis", "length"): 1.0}),
    ]

    assert [(one.subject, one.measure) for one in series_of(samples)] == [
        ("Redis", "keys"),
        ("Redis", "length"),
        ("worker-001", "threads"),
        ("worker-001", "descriptors"),
    ]


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    samples = [Sample(10.001, {("PostgreSQL", "connections"): 28.0, ("endings", "lag, p99"): 0.25}), Sample(20.0, {})]
    stream = io.StringIO()
    for sample in samples:
        write(stream, sample)
    path = tmp_path / "samples.jsonl"
    path.write_text(stream.getvalue())

    assert list(read(path)) == samples
