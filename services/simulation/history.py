"""A message history: a CSV file, plain or gzipped, read as a stream and refused at the first line that is not right."""

import _csv
import csv
import gzip
import io
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from models.columns import EARLIEST_NOW
from services.arguments import require_session_key, require_text
from services.errors import HistoryError, InvalidValueError

#: The file name that means standard input.
STANDARD_INPUT = Path("-")
#: The longest line that is taken for one: a file without line ends is something else, and is not read whole to tell.
LONGEST_LINE = 1_048_576
#: Times from this year on are refused: they leave no room for the longest timeouts. Those before ``EARLIEST_NOW`` are,
#: too: services take none.
FIRST_YEAR_REFUSED = 9_000

_NEEDED = ("at", "session_key")
_KNOWN = (*_NEEDED, "owner", "direction")
_GZIP_MAGIC = b"\x1f\x8b"
#: How often progress is told, in lines: rarely enough to cost nothing.
_PROGRESS_EVERY = 1_000

#: Is told how much of the file is read, from 0 to 1.
Progress = Callable[[float], None]


class Direction(StrEnum):
    """Who wrote a message."""

    #: The customer.
    INBOUND = "inbound"
    #: The owner of the inbox, or a machine of theirs.
    OUTBOUND = "outbound"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a history."""

    #: When it was written, in UTC.
    at: datetime
    session_key: str
    #: None when the history does not say.
    owner: str | None
    #: None when the history does not say.
    direction: Direction | None
    #: Where it stands in the file.
    line: int = field(default=0, compare=False)

    @property
    def may_be_from_customer(self) -> bool:
        """Whether it counts as the customer's: it is inbound, or the history does not say."""
        return self.direction is not Direction.OUTBOUND


@contextmanager
def replayable(path: Path) -> Iterator[Path]:
    """Give the path of a file that can be read again and again: ``path``, or a copy of a pipe or of standard input.

    The copy is removed afterwards. Raises HistoryError when there is nothing to read.
    """
    if path == STANDARD_INPUT and sys.stdin is None:
        raise HistoryError("standard input is closed; give a CSV file, or open it")
    try:
        is_to_be_copied = path == STANDARD_INPUT or (path.exists() and not (path.is_file() or path.is_dir()))
    except OSError as error:
        raise HistoryError(f"{shown_path(path)}: cannot be read: {error.strerror}; give a CSV file") from None
    if not is_to_be_copied:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="adjourn-history-") as directory:
        try:
            copy = _copy_stream(path, Path(directory))
        except OSError as error:
            raise HistoryError(f"{shown_path(path)}: cannot be read: {error.strerror}") from None
        yield copy


def shown_path(path: Path) -> str:
    """Return the name of a file fit to be shown: one may have a line end in it, or bytes that are not UTF-8."""
    name = str(path)
    return name if name.isprintable() else repr(name)


def read_history(path: Path, *, progress: Progress | None = None) -> Generator[Message]:
    """Yield the messages of the CSV file at ``path``, in the order of the file, which is that of their times.

    The header needs ``at`` and ``session_key``; ``owner`` and ``direction`` are used where they are there, and other
    columns are not looked at. A name that ends in ``.gz`` is unpacked. Nothing but the present line is kept.

    Raises HistoryError for anything that is not right, in one line that names the file, the line, the column and the
    value, and says what would be right.
    """
    name = shown_path(path)
    try:
        with _opened(path) as (stream, position):
            lines = _text_lines(name, stream, lambda: progress and progress(position()))
            yield from _messages(name, lines)
    except gzip.BadGzipFile:
        raise HistoryError(f"{name}: it is not gzip, or is damaged; a plain CSV needs a name without .gz") from None
    except (EOFError, zlib.error) as error:
        raise HistoryError(f"{name}: the gzip data is cut short or damaged ({error}); fetch the file again") from None
    except OSError as error:
        raise HistoryError(f"{name}: cannot be read: {error.strerror}; give a CSV file") from None
    if progress:
        progress(1)


def _copy_stream(path: Path, directory: Path) -> Path:
    with ExitStack() as opened:
        source = sys.stdin.buffer if path == STANDARD_INPUT else opened.enter_context(path.open("rb"))
        beginning = source.read(len(_GZIP_MAGIC))
        copy = directory / ("standard-input.csv.gz" if beginning == _GZIP_MAGIC else "standard-input.csv")
        target = opened.enter_context(copy.open("wb"))
        target.write(beginning)
        shutil.copyfileobj(source, target)
    return copy


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, Callable[[], float]]]:
    """Give the file's bytes, unpacked, and how far they are read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size or 1
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=file) as unpacked, io.BufferedReader(unpacked) as stream:
                yield stream, lambda: file.tell() / size
        else:
            yield file, lambda: file.tell() / size


def _text_lines(name: str, stream: io.BufferedIOBase | BinaryIO, tell: Callable[[], object]) -> Iterator[str]:
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if number % _PROGRESS_EVERY == 0:
            tell()
        where = f"{name}, line {number}"
        if b"\0" in line:
            raise HistoryError(f"{where}: it has a NUL byte, so this is not a CSV file; give one in UTF-8")
        if len(line) > LONGEST_LINE:
            raise HistoryError(f"{where}: it is longer than {LONGEST_LINE:,} bytes, so this is not a CSV file")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            wrong = error.object[error.start]  # of a first line, that is without its byte order mark
            raise HistoryError(f"{where}: byte 0x{wrong:02x} is not UTF-8 text; give a CSV file in UTF-8") from None


def _messages(name: str, lines: Iterator[str]) -> Iterator[Message]:
    rows = csv.reader(lines, strict=True)
    written = _written_rows(name, rows)
    names = next(written, None)
    if names is None:
        raise HistoryError(f"{name}: it is empty; give a CSV file with a header: {','.join(_KNOWN)}")
    columns = _known_columns(f"{name}, line {rows.line_num}", names)
    width = len(names)
    previous: Message | None = None
    for row in written:
        where = f"{name}, line {rows.line_num}"
        if len(row) != width:
            raise HistoryError(
                f"{where}: {len(row)} fields where the header has {width}; give each row as many, with "
                "quotes around a field that has a comma"
            )
        message = _message(where, {column: row[place] for column, place in columns.items()}, rows.line_num)
        if previous is not None and message.at < previous.at:
            raise HistoryError(
                f"{where}, column at: {_instant(message.at)} is before {_instant(previous.at)} of the row above; "
                "sort the file by at"
            )
        previous = message
        yield message
    if previous is None:
        raise HistoryError(f"{name}: it has a header and no messages; give it at least one row")


def _written_rows(name: str, rows: "_csv.Reader") -> Iterator[list[str]]:
    """Yield the rows that are not blank lines."""
    try:
        yield from (row for row in rows if row)
    except csv.Error as error:
        raise HistoryError(f"{name}, line {rows.line_num}: it is not CSV: {error}; mend the line") from None


def _known_columns(where: str, names: list[str]) -> dict[str, int]:
    """Return where the columns are that are used."""
    folded = [name.strip().lower() for name in names]
    for name in _KNOWN:
        found = folded.count(name)
        if (name in _NEEDED and not found) or found > 1:
            problem = "is missing" if not found else f"is there {found} times"
            raise HistoryError(
                f"{where}: column {name} {problem}; the header is {_shown(','.join(names))}, and needs "
                f"{' and '.join(_NEEDED)}, separated by commas"
            )
    return {name: folded.index(name) for name in _KNOWN if name in folded}


def _message(where: str, fields: dict[str, str], line: int) -> Message:
    key = fields["session_key"]
    if not key.strip():
        raise HistoryError(f"{where}, column session_key: {_shown(key)} is empty; give each message its session key")
    owner = fields.get("owner") or None
    try:
        require_session_key(key)
        require_text("owner", owner or "-")
    except InvalidValueError as error:
        raise HistoryError(f"{where}, column {error}") from None
    return Message(
        at=_parse_instant(where, fields["at"]),
        session_key=key,
        owner=owner,
        direction=_parse_direction(where, fields.get("direction", "")),
        line=line,
    )


def _parse_instant(where: str, value: str) -> datetime:
    right = "write it like 2026-01-31T12:00:00Z"
    try:
        at = datetime.fromisoformat(value.strip())
    except ValueError:
        raise HistoryError(f"{where}, column at: {_shown(value)} is not a time; {right}") from None
    if at.utcoffset() is None:
        raise HistoryError(f"{where}, column at: {_shown(value)} has no time zone; {right}")
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        at = datetime.max.replace(tzinfo=UTC)
    if at < EARLIEST_NOW or at.year >= FIRST_YEAR_REFUSED:
        raise HistoryError(f"{where}, column at: {_shown(value)} is out of range; give a time from 0001-01-02 to 8999")
    return at


def _parse_direction(where: str, value: str) -> Direction | None:
    written = value.strip().lower()
    if not written:
        return None
    try:
        return Direction(written)
    except ValueError:
        raise HistoryError(
            f"{where}, column direction: {_shown(value)} is not known; write inbound or outbound, or leave it empty"
        ) from None


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _shown(value: str) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:60]}... ({len(value):,} characters)"  # noqa: PLR2004 - a line
