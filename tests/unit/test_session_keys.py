import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidValueError
from services.session_keys import canonical_session_key

#: Texts of what could be mistaken for separators, encodings and punctuation, so that near misses are common.
awkward = st.text(alphabet="ab:%3A+@/ 0é", min_size=1, max_size=5).filter(str.strip)
texts = awkward | st.text(min_size=1, max_size=6).filter(
    lambda text: bool(text.strip()) and not re.search("[\ud800-\udfff]", text)
)
numbers = st.from_regex(r"\+?[0-9]{1,4}", fullmatch=True) | texts


def key(owner_id: str, channel: str, from_number: str, to_number: str) -> str:
    return canonical_session_key(owner_id=owner_id, channel=channel, from_number=from_number, to_number=to_number)


def party(number: str) -> str:
    """Say which party a number means, in other words than the code's."""
    bare = "".join(one for one in number if not one.isspace() and one not in "().-\u2010\u2011\u2012\u2013\u2014\u2015")
    digits = bare.removeprefix("+")
    return bare if digits.isascii() and digits.isdigit() else number.strip()


def pair(owner_id: str, channel: str, one: str, other: str) -> tuple[Any, ...]:
    return owner_id.strip(), channel.strip().lower(), tuple(sorted((party(one), party(other))))


def test_a_key_is_owner_channel_and_the_two_numbers() -> None:
    assert key("acme", "sms", "+33600000001", "+33123456789") == "acme:sms:+33123456789:+33600000001"


@pytest.mark.parametrize(
    "written", ["+33600000001", " +33 6 00 00 00 01 ", "+33.600.000.001", "+33-6-00-00-00-01", "+(33)600000001"]
)
def test_a_number_is_the_same_however_it_is_written(written: str) -> None:
    assert key("acme", "sms", written, "+33123456789") == key("acme", "sms", "+33600000001", "+33123456789")


def test_what_is_no_number_stays_as_it_is() -> None:
    assert key("acme", "web", "visitor-1.2 (a)", "inbox") == "acme:web:inbox:visitor-1.2 (a)"
    assert key("acme", "web", "visitor-12", "inbox") != key("acme", "web", "visitor12", "inbox")


def test_a_plus_makes_another_number() -> None:
    assert key("acme", "sms", "+336", "1") != key("acme", "sms", "336", "1")


@pytest.mark.parametrize("channel", ["WhatsApp", " whatsapp", "WHATSAPP "])
def test_the_channel_has_no_case(channel: str) -> None:
    assert key("acme", channel, "1", "2") == key("acme", "whatsapp", "1", "2")


def test_the_owner_has_case() -> None:
    assert key("acme", "sms", "1", "2") != key("Acme", "sms", "1", "2")


def test_a_separator_within_a_part_is_not_one() -> None:
    assert key("a:b", "c", "1", "2") != key("a", "b:c", "1", "2")
    assert key("a%3Ab", "c", "1", "2") != key("a:b", "c", "1", "2")


@given(texts, texts, numbers, numbers)
def test_both_directions_of_a_pair_share_a_key(owner_id: str, channel: str, one: str, other: str) -> None:
    assert key(owner_id, channel, one, other) == key(owner_id, channel, other, one)


@given(st.tuples(texts, texts, numbers, numbers), st.tuples(texts, texts, numbers, numbers))
def test_two_pairs_share_a_key_exactly_when_they_are_the_same(
    one: tuple[str, str, str, str], two: tuple[str, str, str, str]
) -> None:
    assert (key(*one) == key(*two)) == (pair(*one) == pair(*two))


@given(st.tuples(*[st.sampled_from(["a", "b", "a:b", "a%3Ab", ":", "1", "+1", "1 "])] * 8))
def test_two_pairs_that_nearly_are_the_same_never_share_a_key(parts: tuple[str, ...]) -> None:
    one, two = parts[:4], parts[4:]
    assert (key(*one) == key(*two)) == (pair(*one) == pair(*two))


@given(texts, texts, numbers, numbers)
def test_a_key_has_three_separators_and_four_parts(owner_id: str, channel: str, one: str, other: str) -> None:
    assert all(part for part in key(owner_id, channel, one, other).split(":"))
    assert key(owner_id, channel, one, other).count(":") == 3


@pytest.mark.parametrize("text", ["", "  ", "\t"])
@pytest.mark.parametrize("argument", ["owner_id", "channel", "from_number", "to_number"])
def test_an_empty_part_is_refused_with_its_name(argument: str, text: str) -> None:
    parts = {"owner_id": "acme", "channel": "sms", "from_number": "1", "to_number": "2", argument: text}
    with pytest.raises(InvalidValueError, match=rf"^{argument}: "):
        canonical_session_key(**parts)
