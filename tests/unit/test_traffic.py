from itertools import islice, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.demo.traffic import (
    CARE,
    CHAT,
    LONGEST_WATCHED,
    SHARES,
    Shape,
    draw_customers,
    draw_message_times,
    draw_value,
)

DRAWS = 50_000
SHAPES = pytest.mark.parametrize("shape", [CHAT, CARE], ids=["chat", "care"])


@SHAPES
def test_the_tables_are_quantiles(shape: Shape) -> None:
    assert (SHARES[0], SHARES[-1]) == (0, 1)
    for table in (SHARES, shape.lengths, shape.gaps):
        assert len(table) == 21
        assert list(table) == sorted(table)


@SHAPES
@pytest.mark.parametrize("table", ["lengths", "gaps"])
def test_what_is_drawn_has_the_measured_quantiles(shape: Shape, table: str) -> None:
    quantiles = getattr(shape, table)
    rng = Random(1)
    drawn = [draw_value(rng, quantiles) for _ in range(DRAWS)]

    for share, value in zip(SHARES, quantiles, strict=True):
        # Where a value fills more than one share, it is met anywhere between the first and the last of them.
        assert sum(each < value for each in drawn) / DRAWS <= share + 0.01
        assert sum(each <= value for each in drawn) / DRAWS >= share - 0.01


@pytest.mark.parametrize(
    ("shape", "seconds", "measured"),
    [(CHAT, 300, 0.122), (CHAT, 1_800, 0.046), (CARE, 300, 0.727), (CARE, 1_800, 0.430)],
)
def test_gaps_beyond_a_timeout_have_their_measured_share(shape: Shape, seconds: int, measured: float) -> None:
    rng = Random(2)
    beyond = sum(draw_value(rng, shape.gaps) >= seconds for _ in range(DRAWS))

    assert beyond / DRAWS == pytest.approx(measured, abs=0.03)


@pytest.mark.parametrize(("shape", "mean"), [(CHAT, 12.6), (CARE, 1.3)])
def test_customers_write_as_often_as_measured(shape: Shape, mean: float) -> None:
    rng = Random(3)
    messages = sum(len(draw_message_times(rng, shape=shape, scale=60)) for _ in range(10_000))

    assert messages / 10_000 == pytest.approx(mean, rel=0.15)


@given(seed=st.integers(), scale=st.floats(min_value=1, max_value=10_000))
def test_times_never_go_back(seed: int, scale: float) -> None:
    customers = list(islice(draw_customers(Random(seed), rate=8, scale=scale), 20))

    assert all(one.arrives_at <= other.arrives_at for one, other in pairwise(customers))
    for customer in customers:
        assert customer.message_times[0] == 0
        assert customer.message_times[-1] < LONGEST_WATCHED
        assert all(one <= other for one, other in pairwise(customer.message_times))


def test_a_larger_scale_brings_the_same_messages_sooner() -> None:
    slow = draw_message_times(Random(4), shape=CHAT, scale=1)
    fast = draw_message_times(Random(4), shape=CHAT, scale=60)

    assert fast == pytest.approx([at / 60 for at in slow])


def test_customers_arrive_at_the_rate() -> None:
    customers = list(islice(draw_customers(Random(5), rate=8, scale=60), 4_000))

    assert len(customers) / customers[-1].arrives_at == pytest.approx(8, rel=0.05)
    assert sum(one.shape is CHAT for one in customers) / len(customers) == pytest.approx(0.75, abs=0.03)


def test_the_same_seed_brings_the_same_customers() -> None:
    def some(seed: int) -> list[float]:
        return [one.arrives_at for one in islice(draw_customers(Random(seed), rate=8, scale=60), 10)]

    assert some(6) == some(6) != some(7)
