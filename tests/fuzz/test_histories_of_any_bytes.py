"""Whatever a file holds, a simulation reads of it what it says, or refuses it in one line that names file and line."""

import codecs
import csv
import gzip
import io
import itertools
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from models import ConversationStatus
from services.errors import HistoryError
from services.simulation.history import LONGEST_LINE, Message, read_history, replayable
from services.simulation.outcomes import EndedConversation
from services.simulation.replay import replayed
from services.timeouts import Timeouts
from tests.acceptance.commands import run
from tests.fuzz.effort import tried
from tests.fuzz.values import AWKWARD_TEXTS

TIMEOUTS = Timeouts(idle=timedelta(minutes=30), expiry=timedelta(hours=2))
_MIDNIGHT = datetime(2026, 1, 31, tzinfo=UTC)
_numbers = itertools.count()
_HEADERS = (
    b"at,session_key,owner,direction",
    b"at,session_key",
    b"session_key,at,text",
    b" AT ,Session_Key,owner",
    b"at,session_key,at",
    b"at,owner",
    b"at;session_key",
    b'"at","session_key","direction"',
    b"",
)
_fields = st.one_of(
    st.sampled_from(
        (
            "2026-01-31T12:00:00Z",
            "2026-01-31 12:30:00+00:09:21",
            "2026-01-31T12:00:00.000001-12:00",
            "20260131T120000Z",
            "2026-W05-6T12:00Z",
            "2026-01-31",
            "2026-02-30T12:00:00Z",
            "2026-01-31T12:00:60Z",
            "0001-01-01T00:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "0001-01-02T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2038-01-19T03:14:08Z",
            "8999-12-31T23:59:59Z",
            "9999-12-31T23:59:59-14:00",
            "٢٠٢٦-01-31T12:00:00Z",
            "1769860800",
            "a",
            "b",
            "acme",
            "globex",
            "inbound",
            "OUTBOUND ",
            "=1+1",
            '"',
            '"a"b',
            '"a\nb"',
            "a,b",
            "x" * 200_000,
        )
    ),
    st.sampled_from(AWKWARD_TEXTS).filter(lambda text: text.isascii() or text.isprintable()),
    st.text(max_size=10),
).map(lambda text: text.encode(errors="replace"))
_rows = st.lists(st.lists(_fields, max_size=5).map(b",".join), max_size=6)
#: Rows that are nearly right, in the order of their times.
_likely_rows = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.sampled_from(("a", "b", "é", '"c,d"', " ", "😀")),
        st.sampled_from(("",) * 9 + ("acme",)),
        st.sampled_from(("", "inbound", "outbound") * 9 + ("sideways",)),
    ),
    min_size=1,
    max_size=12,
).map(
    lambda rows: [
        f"{_MIDNIGHT + timedelta(minutes=minute)},{key},{owner},{direction}".encode()
        for minute, key, owner, direction in sorted(rows, key=lambda row: row[0])
    ]
)
_ends = st.sampled_from((b"\n", b"\n", b"\r\n", b"\r", b"\n\n"))
_written = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda header, rows, end: end.join([header, *rows, b""]), st.sampled_from(_HEADERS), _rows, _ends),
    st.builds(lambda rows, end: end.join([_HEADERS[0], *rows, b""]), _likely_rows, _ends),
)


def _changed(content: bytes, place: int, change: str, new: bytes) -> bytes:
    """Return a good file gone bad in one place."""
    place %= len(content) + 1
    match change:
        case "insert":
            return content[:place] + new + content[place:]
        case "replace":
            return content[:place] + new + content[place + len(new) :]
        case "cut":
            return content[:place]
        case "repeat":
            return content + content[place:]
        case _:
            return content


def _encoded(content: bytes, how: str) -> bytes:
    if how in {"utf-16", "utf-32", "latin-1"}:
        return content.decode(errors="replace").encode(how, errors="replace")
    return codecs.BOM_UTF8 + content if how == "bom" else content


def _packed(content: bytes, how: str, place: int) -> tuple[str, bytes]:
    """Return a name and what lies under it."""
    packed = gzip.compress(content, mtime=0)
    flipped = bytearray(packed)
    flipped[place % len(packed)] ^= 0x55
    return {
        "plain": ("history.csv", content),
        "gz": ("history.csv.gz", packed),
        "cut gz": ("history.csv.gz", packed[: place % len(packed)]),
        "bad gz": ("history.csv.gz", bytes(flipped)),
        "two gz": ("history.csv.gz", packed + gzip.compress(content, mtime=0)),
        "gz and more": ("history.csv.gz", packed + b"more"),
        "not gz": ("history.csv.gz", content),
        "gz by another name": ("history.csv", packed),
    }[how]


#: Those of which most are right.
_likely_histories = _likely_rows.map(lambda rows: ("history.csv", b"\n".join([_HEADERS[0], *rows, b""])))
_histories = st.builds(
    lambda content, place, change, new, how, packing: _packed(
        _encoded(_changed(content, place, change, new), how), packing, place
    ),
    _written,
    st.integers(0, 10_000),
    st.sampled_from(("nothing", "nothing", "insert", "replace", "cut", "repeat")),
    st.one_of(
        st.binary(min_size=1, max_size=3), st.sampled_from((b"\0", b'"', b",", b"\r", b"\n", b"\xff", b"\xef\xbb\xbf"))
    ),
    st.sampled_from(("utf-8", "utf-8", "utf-8", "bom", "utf-16", "utf-32", "latin-1")),
    st.sampled_from(
        ("plain",) * 6 + ("gz", "cut gz", "bad gz", "two gz", "gz and more", "not gz", "gz by another name")
    ),
)


def put(directory: Path, history: tuple[str, bytes]) -> Path:
    name, content = history
    path = directory / f"{next(_numbers)}-{name}"
    path.write_bytes(content)
    return path


def read(path: Path) -> list[Message] | str:
    """Return the messages, or the one line with which the file is refused."""
    try:
        return list(read_history(path))
    except HistoryError as refusal:
        return checked(path, refusal)


def checked(path: Path, refusal: HistoryError) -> str:
    text = str(refusal)
    assert text.isprintable(), text
    assert text.startswith(str(path))
    assert len(text) < 1_000
    for word in ("codec", "Errno", "invalid start byte", "isoformat"):
        assert word not in text
    return text


def plainly_read(path: Path) -> list[tuple[datetime, str]]:
    """Return times and keys as a plain program of few lines reads them."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    names = [name.strip().lower() for name in rows[0]]
    at, key = names.index("at"), names.index("session_key")
    return [(datetime.fromisoformat(row[at].strip()).astimezone(UTC), row[key]) for row in rows[1:]]


@tried(120)
@given(history=_histories)
@example(history=("a.csv", b""))
@example(history=("a.csv.gz", b""))
@example(history=("a.csv", b"\xef\xbb\xbfat,session_key\xff\n"))
@example(history=("a.csv", b"at,session_key\n0001-01-01T00:00:00Z,a\n"))
@example(history=("a.csv", b"at,session_key\n0001-01-01T00:00:00+14:00,a\n"))
@example(history=("a.csv", b'at,session_key\n"' + b"2026-01-31T12:00:00Z,a\n" * 100_000))
@example(history=("a.csv", b"x" * (LONGEST_LINE + 1)))
@example(history=("a.csv.gz", gzip.compress(b"x" * 20_000_000)))
@example(history=("a.csv.gz", gzip.compress(b"\n" * 100_000)))
def test_a_file_is_read_as_a_plain_program_reads_it_or_is_refused(tmp_path: Path, history: tuple[str, bytes]) -> None:
    path = put(tmp_path, history)

    messages = read(path)

    if not isinstance(messages, str):
        assert messages
        assert [(message.at, message.session_key) for message in messages] == plainly_read(path)
    path.unlink()


def sessionized(rows: list[tuple[datetime, str]]) -> list[EndedConversation]:
    """Return what the rules make of messages, without a database."""
    open_ones: dict[str, list[datetime]] = {}
    ended: list[tuple[str, list[datetime]]] = []
    for at, key in rows:
        times = open_ones.get(key)
        if times is None or at >= min(times[-1] + TIMEOUTS.idle, times[0] + TIMEOUTS.expiry):
            times = open_ones[key] = []
            ended.append((key, times))
        times.append(at)
    return [
        EndedConversation(
            key,
            times[0],
            times[-1],
            min(times[-1] + TIMEOUTS.idle, times[0] + TIMEOUTS.expiry),
            ConversationStatus.EXPIRED
            if times[0] + TIMEOUTS.expiry <= times[-1] + TIMEOUTS.idle
            else ConversationStatus.IDLE_TIMEOUT,
            len(times),
        )
        for key, times in sorted(ended)
    ]


@tried(6, share=0.1)
@given(history=_likely_histories)
@example(
    history=("a.csv", b"\n".join((_HEADERS[0], b"2026-01-31T12:00:00Z,a,acme,", b"2026-01-31T12:00:01Z,a,globex,")))
)
@example(history=("a.csv", b"at,session_key\n0001-01-02T00:00:00Z,a\n8999-12-31T23:59:59.999999Z,a\n"))
def test_what_is_accepted_ends_as_a_plain_sessionizer_says(tmp_path: Path, history: tuple[str, bytes]) -> None:
    path = put(tmp_path, history)
    messages = read(path)
    assume(not isinstance(messages, str))

    try:
        with replayed(path, timeouts=TIMEOUTS) as replay:
            ended = list(replay.conversations())
    except HistoryError as refusal:
        said = checked(path, refusal)
    else:
        said = ""
        assert ended == sessionized(plainly_read(path))
    # What no row says by itself.
    assert not said or ("column session_key" in said and "another owner" in said)


def test_a_key_of_two_owners_is_refused_with_its_line(tmp_path: Path) -> None:
    path = put(
        tmp_path, ("a.csv", b"at,session_key,owner\n2026-01-31T12:00:00Z,a,acme\n2026-01-31T12:00:01Z,a,globex\n")
    )

    with (
        pytest.raises(HistoryError, match=r"a\.csv, line 3, column session_key: 'a' .* another owner"),
        replayed(path, timeouts=TIMEOUTS),
    ):
        pass


def test_the_byte_that_is_not_utf_8_is_named_after_a_byte_order_mark_too(tmp_path: Path) -> None:
    said = read(put(tmp_path, ("a.csv", b"\xef\xbb\xbfat,session_key\xfe\n")))

    assert "line 1: byte 0xfe" in str(said)


@pytest.mark.parametrize("name", ["a" * 300, "a\nb", "\udcff", "no/such/file", "."])
def test_a_name_that_no_history_has_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(HistoryError) as refused, replayable(Path(name)) as path:
        list(read_history(path))

    assert str(refused.value).isprintable()


def test_a_standard_input_that_is_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(HistoryError, match="standard input is closed"), replayable(Path("-")):
        pass


@pytest.mark.slow
def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    path = put(tmp_path, ("a.csv", b"at,session_key\n2026-01-31T12:00:00Z,a\0b\n"))

    ended = run("adjourn", "simulate", str(path), directory=tmp_path)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"adjourn: {path}, line 2: it has a NUL byte, so this is not a CSV file; give one in UTF-8\n"
