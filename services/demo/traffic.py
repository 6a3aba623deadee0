"""Traffic shaped like real conversations: when customers arrive, how often they write, how long they pause.

What is drawn are quantiles measured on two public corpora, by inverse transform: nothing here is a guess but the mix.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random

#: Where the quantiles below are taken. The upper end is close-knit: that is where the timeouts bite and where few
#: threads hold most messages.
SHARES = (
    *(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85),
    *(0.875, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0),
)


#: Seconds after a customer's first message from which on nobody is there to see another: what would come then is left
#: out, so that traffic which goes on for days keeps an hour's messages in memory and no more.
LONGEST_WATCHED = 3_600.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How the customers of one corpus write; each table has one value for each of ``SHARES``."""

    #: Messages of one session key.
    lengths: tuple[float, ...]
    #: Seconds from a message to the next one on the same session key.
    gaps: tuple[float, ...]


#: People who chat: the IRC disentanglement corpus, train split (CC BY 4.0): 153 days of a support channel, 196,146
#: messages on 15,521 keys, 180,625 gaps between neighbours in time. Its clock has minutes only, so within a minute the
#: messages were spread by their order; hence the steps near 60, 120 and 180. 12.2 % of the gaps reach 5 minutes.
#: Gaps drawn independently of each other keep what matters here: with 5 minutes idle and 15 minutes to expiry they give
#: 2.7 conversations a key of which 14.0 % expire, where the corpus itself has 2.6 and 14.5 %.
CHAT = Shape(
    lengths=(
        *(1, 1, 1, 2, 3, 4, 6, 9, 11, 14, 19),
        *(23, 27, 34, 44, 61, 78, 118, 175.4, 454.2, 2_376),
    ),
    gaps=(
        *(0, 1, 3, 5, 54, 58, 60.4, 114, 120, 173, 237),
        *(298, 416, 659, 1_494, 5_941, 1_450_093, 13_401_229, 36_160_362, 134_764_463, 370_598_570),
    ),
)

#: People who leave a message and wait: IBM's Twitter customer-care dataset, dev split (Apache-2.0): 25 organisations,
#: 686 messages on 521 keys, 165 gaps, of which 73 % reach 5 minutes.
CARE = Shape(
    lengths=(
        *(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
        *(2, 2, 3, 3, 3, 5, 5.8, 7.4, 12.9, 15),
    ),
    gaps=(
        *(0, 89.8, 187.6, 414.6, 786.6, 1_270, 2_243.6, 4_247.8, 9_540, 21_798.6, 38_676.4),
        *(55_694, 66_174.4, 93_794.5, 163_900.8, 311_501.6, 489_504.6, 949_366.7, 1_723_757, 4_215_324, 4_838_216),
    ),
)


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer's plan."""

    shape: Shape
    #: When the first message comes, in seconds from the start.
    arrives_at: float
    #: When each message comes, in seconds from the first: never descending, the first is 0, none is after an hour.
    message_times: tuple[float, ...]


def draw_value(rng: Random, quantiles: Sequence[float]) -> float:
    """Return a value distributed as ``quantiles``, which are those at ``SHARES``; straight lines join them."""
    share = rng.random()
    above = bisect_right(SHARES, share)
    below = above - 1
    part = (share - SHARES[below]) / (SHARES[above] - SHARES[below])
    return quantiles[below] + part * (quantiles[above] - quantiles[below])


def draw_message_times(rng: Random, *, shape: Shape, scale: float) -> tuple[float, ...]:
    """Return when one customer writes, in seconds from the first message; at ``scale`` 60 a minute takes a second."""
    times = [0.0]
    for _ in range(round(draw_value(rng, shape.lengths)) - 1):
        times.append(times[-1] + draw_value(rng, shape.gaps) / scale)
    return tuple(times)


def draw_customers(rng: Random, *, rate: float, scale: float, chat_share: float = 0.75) -> Iterator[Customer]:
    """Yield customers for ever, in order of arrival: ``rate`` of them a second, independently of each other.

    ``chat_share`` of them are of the shape CHAT, the others of CARE. The arrivals are not sped up by ``scale``.
    """
    arrives_at = 0.0
    while True:
        arrives_at += rng.expovariate(rate)
        shape = CHAT if rng.random() < chat_share else CARE
        times = draw_message_times(rng, shape=shape, scale=scale)
        yield Customer(shape, arrives_at, tuple(takewhile(lambda at: at < LONGEST_WATCHED, times)))
