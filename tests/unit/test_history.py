import csv
import gzip
import io
import os
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import HistoryError
from services.simulation.history import LONGEST_LINE, STANDARD_INPUT, Direction, Message, read_history, replayable

HEADER = b"at,session_key,owner,direction\n"
ROW = b"2026-01-31T12:00:00Z,a,acme,inbound\n"


def written(directory: Path, content: bytes, name: str = "history.csv") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(HistoryError) as refused:
        list(read_history(path))
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_each_row_is_a_message_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + ROW + b"2026-01-31T12:00:00Z,b,,\n2026-01-31T12:01:00Z,a,acme,outbound\n")
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert list(read_history(path)) == [
        Message(noon, "a", "acme", Direction.INBOUND),
        Message(noon, "b", None, None),
        Message(noon + timedelta(minutes=1), "a", "acme", Direction.OUTBOUND),
    ]


def test_only_the_time_and_the_key_are_needed_and_other_columns_are_not_looked_at(tmp_path: Path) -> None:
    path = written(tmp_path, b"text, Session_Key ,AT\nhello,a,2026-01-31T12:00:00Z\n")

    [message] = read_history(path)

    assert (message.session_key, message.owner, message.direction) == ("a", None, None)
    assert message.may_be_from_customer


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00.25+00:00", datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.000001Z", datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)),
        ("2026-01-31T17:30:00+05:30", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T04:00:00-0800", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        (" 2026-01-31T12:00Z ", datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_fractions_and_any_offset_come_out_in_utc(tmp_path: Path, value: str, at: datetime) -> None:
    [message] = read_history(written(tmp_path, f"at,session_key\n{value},a\n".encode()))

    assert message.at == at
    assert message.at.tzinfo is UTC


def test_order_is_judged_on_instants_and_not_on_wall_clocks(tmp_path: Path) -> None:
    path = written(tmp_path, b"at,session_key\n2026-01-31T12:00:00Z,a\n2026-01-31T08:00:00-05:00,a\n")

    assert [message.at.hour for message in read_history(path)] == [12, 13]


def test_a_byte_order_mark_blank_lines_quotes_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    rows = b'\xef\xbb\xbf"at",session_key\r\n\r\n2026-01-31T12:00:00Z,"Zo\xc3\xab, ""x""\n2"\r\n\r\n'

    assert [message.session_key for message in read_history(written(tmp_path, rows))] == ['Zoë, "x"\n2']


def test_a_session_key_stays_as_it_is_given(tmp_path: Path) -> None:
    path = written(tmp_path, b"at,session_key\n2026-01-31T12:00:00Z, +33 6 \n")

    assert [message.session_key for message in read_history(path)] == [" +33 6 "]


def test_a_gzipped_history_reads_like_the_plain_one(tmp_path: Path) -> None:
    plain = written(tmp_path, HEADER + ROW)
    packed = written(tmp_path, gzip.compress(HEADER + ROW), "history.csv.gz")

    assert list(read_history(packed)) == list(read_history(plain))


@pytest.mark.parametrize("name", ["history.csv", "history.csv.gz"])
def test_progress_goes_up_to_all_of_the_file(tmp_path: Path, name: str) -> None:
    content = HEADER + ROW * 5_000
    path = written(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name)
    told: list[float] = []

    for _ in read_history(path, progress=told.append):
        pass

    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == 1


def test_nothing_beyond_the_present_line_needs_to_be_right_yet(tmp_path: Path) -> None:
    messages = read_history(written(tmp_path, HEADER + ROW + b"yesterday,a,,\n"))

    assert next(messages).session_key == "a"
    with pytest.raises(HistoryError, match="line 3"):
        next(messages)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ["it is empty", "at,session_key"]),
        (b"\n\n", ["it is empty"]),
        (HEADER, ["no messages"]),
        (b"session_key,owner\na,b\n", ["line 1", "column at is missing", "'session_key,owner'"]),
        (b"\nat,key\n2026-01-31T12:00:00Z,a\n", ["line 2", "column session_key is missing", "'at,key'"]),
        (b"at;session_key\n2026-01-31T12:00:00Z;a\n", ["line 1", "'at;session_key'", "separated by commas"]),
        (b"at,at,session_key\n", ["line 1", "column at is there 2 times"]),
        (HEADER + b"31/01/2026,a,,\n", ["line 2", "column at", "'31/01/2026'", "2026-01-31T12:00:00Z"]),
        (HEADER + b",a,,\n", ["line 2", "column at", "''"]),
        (HEADER + b"1769860800,a,,\n", ["line 2", "column at", "'1769860800'"]),
        (HEADER + b"2026-02-30T12:00:00Z,a,,\n", ["line 2", "column at", "'2026-02-30T12:00:00Z'"]),
        (HEADER + b"2026-01-31T12:00:00,a,,\n", ["line 2", "column at", "'2026-01-31T12:00:00'", "no time zone"]),
        (HEADER + b"0001-01-01T00:00:00+05:00,a,,\n", ["line 2", "column at", "out of range"]),
        (HEADER + b"9999-12-31T12:00:00Z,a,,\n", ["line 2", "column at", "out of range"]),
        (
            HEADER + ROW + b"2026-01-31T11:59:59.5Z,b,,\n",
            ["line 3", "column at", "2026-01-31T11:59:59.500000Z", "2026-01-31T12:00:00Z", "sort the file by at"],
        ),
        (HEADER + b"2026-01-31T12:00:00Z,,,\n", ["line 2", "column session_key", "''", "empty"]),
        (HEADER + b"2026-01-31T12:00:00Z,  ,,\n", ["line 2", "column session_key", "'  '", "empty"]),
        (HEADER + b"2026-01-31T12:00:00Z," + b"k" * 2_049 + b",,\n", ["line 2", "column session_key", "2,048"]),
        (HEADER + b"2026-01-31T12:00:00Z,a," + b"o" * 256 + b",\n", ["line 2", "column owner", "255"]),
        (HEADER + b"2026-01-31T12:00:00Z,a,,in\n", ["line 2", "column direction", "'in'", "inbound or outbound"]),
        (HEADER + ROW + b"2026-01-31T12:00:00Z,a\n", ["line 3", "2 fields", "4"]),
        (HEADER + ROW + b"2026-01-31T12:00:00Z,a,b,c,d\n", ["line 3", "5 fields", "4"]),
        (HEADER + b'2026-01-31T12:00:00Z,"a,,\n', ["line 2", "not CSV"]),
        (HEADER + b'2026-01-31T12:00:00Z,"a"b,,\n', ["line 2", "not CSV"]),
        (HEADER + b"2026-01-31T12:00:00Z,a\0b,,\n", ["line 2", "NUL"]),
        (HEADER + b"2026-01-31T12:00:00Z,Zo\xeb,,\n", ["line 2", "0xeb", "UTF-8"]),
        ((HEADER + ROW).decode().encode("utf-16"), ["line 1", "UTF-8"]),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), ["line 1", "UTF-8"]),
        (b"x" * (LONGEST_LINE + 1), ["line 1", "longer than"]),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, content: bytes, said: list[str]) -> None:
    path = written(tmp_path, content)

    text = refusal(path)

    assert [part for part in [str(path), *said] if part not in text] == []


def test_a_plain_file_that_is_called_gz_is_refused(tmp_path: Path) -> None:
    assert "not gzip" in refusal(written(tmp_path, HEADER + ROW, "history.csv.gz"))


@pytest.mark.parametrize("kept", [5, 15, -9, -4])
def test_a_gzip_that_is_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    text = refusal(written(tmp_path, gzip.compress(HEADER + ROW * 100)[:kept], "history.csv.gz"))

    assert "cut short" in text


def test_a_gzip_with_a_damaged_byte_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(HEADER + ROW * 100))
    packed[len(packed) // 2] ^= 0xFF

    assert "damaged" in refusal(written(tmp_path, bytes(packed), "history.csv.gz"))


def test_an_empty_gzip_is_an_empty_history(tmp_path: Path) -> None:
    assert "it is empty" in refusal(written(tmp_path, gzip.compress(b""), "history.csv.gz"))


def test_a_file_that_is_not_there_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.csv")
    assert "Is a directory" in refusal(tmp_path)


def test_a_file_is_replayable_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + ROW)

    with replayable(path) as file:
        assert file == path


def test_a_pipe_can_be_read_twice_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[gzip.compress(HEADER + ROW)])
    writer.start()

    with replayable(pipe) as file:
        assert list(read_history(file)) == list(read_history(file))

    writer.join()
    assert not file.exists()


def test_a_dash_is_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with written(tmp_path, HEADER + ROW).open() as given:
        monkeypatch.setattr(sys, "stdin", given)

        with replayable(STANDARD_INPUT) as file:
            assert [message.session_key for message in read_history(file)] == ["a"]


instants = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2900, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    # Whole minutes: Python 3.11 reads an offset of less than a second as none.
    timezones=st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1).filter(str.strip)


@given(rows=st.lists(st.tuples(instants, keys), min_size=1))
def test_what_a_csv_writer_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[datetime, str]]
) -> None:
    rows.sort(key=lambda row: row[0])
    text = io.StringIO()
    csv.writer(text).writerows([("at", "session_key"), *((at.isoformat(), key) for at, key in rows)])
    path = written(tmp_path_factory.mktemp("history"), text.getvalue().encode())

    assert [(message.at, message.session_key) for message in read_history(path)] == rows
