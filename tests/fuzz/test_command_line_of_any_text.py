"""Whatever stands on the command line, `adjourn` does it, or says in one line what is wrong with it."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from services import cli
from services.errors import AdjournError
from tests.acceptance.commands import run
from tests.fuzz.effort import tried
from tests.fuzz.values import AWKWARD_TEXTS

#: An argument has no NUL; bytes that are not UTF-8 come as surrogates.
arguments = st.one_of(
    st.text(max_size=8).filter(lambda text: text.isprintable()),
    st.sampled_from(AWKWARD_TEXTS),
    st.sampled_from(
        ("\udcff", "-1", "--", "-", "--all", "--json", "head+1", "::", "a@b", "base:head", "1e3", "9" * 50)
    ),
).map(lambda text: text.replace("\0", "").replace("\ud800", "\udcff"))
#: Those that look, and that refuse what they cannot mean, with whatever stands in the place of ``{}``.
_LOOKING = (
    ("pause", "{}"),
    ("resume", "{}"),
    ("trigger", "{}"),
    ("trigger", "{}", "--wait", "0"),
    ("dead-letters", "list", "--queue", "{}"),
    ("dead-letters", "list", "--queue", "{}", "--json"),
    ("dead-letters", "show", "{}"),
    ("dead-letters", "show", "{}", "--queue", "{}"),
    ("dead-letters", "requeue", "{}"),
    ("dead-letters", "drop", "{}", "{}"),
    ("set-aside", "retry", "{}"),
    ("simulate", "{}"),
    ("simulate", "no-such-file.csv", "--idle-timeout", "{}"),
    ("simulate", "no-such-file.csv", "--expire-after", "{}"),
    ("simulate", "no-such-file.csv", "--format", "{}"),
    ("simulate", "no-such-file.csv", "--format", "jsonl", "--database", "sqlite:///{}?x"),
    ("migrate", "--down", "{}"),
    ("migrate", "{}"),
    ("run", "--once", "--batch-size", "{}"),
    ("adopt", "--check", "--overdue", "{}"),
    ("status", "{}"),
    ("{}",),
    ("dead-letters", "{}"),
)
#: Those that would begin to work if what stands there were a number.
_WORKING = (
    ("demo", "--seconds", "{}"),
    ("demo", "--seed", "{}"),
    ("traffic", "--rate", "{}"),
    ("traffic", "--seconds", "{}"),
    ("trigger", "idle", "--wait", "{}"),
    ("dead-letters", "list", "--limit", "{}"),
    ("health", "{}"),
)
_NUMBER = re.compile(r"\s*[+-]?[\d_.]+([eE][+-]?\d+)?\s*")


@pytest.fixture
def _surroundings(sqlite_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A database, a Redis and a directory of the test's; the command takes the signal, and it is given back."""
    monkeypatch.chdir(tmp_path)
    for variable, value in {"DATABASE_URL": sqlite_url, "REDIS_URL": redis_url, "ADJOURN_DATA_DIR": "data"}.items():
        monkeypatch.setenv(variable, value)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def said_by(line: tuple[str, ...]) -> tuple[int, str]:
    """Return the exit code of a command, and what it says on standard error."""
    result = CliRunner().invoke(cli.app, list(line))
    if isinstance(result.exception, AdjournError):
        text = str(result.exception)
        assert text.isprintable(), text
        assert len(text) < 1_500
        return 1, text
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


@pytest.mark.usefixtures("_surroundings", "untouched_logging")
@tried(12, share=0.2)
@given(line=st.sampled_from(_LOOKING), text=arguments)
@example(line=("dead-letters", "list", "--queue", "{}"), text="\udcff")
@example(line=("migrate", "{}"), text="")
@example(line=("migrate", "{}"), text="head+1")
@example(line=("simulate", "{}"), text="a" * 300)
@example(line=("simulate", "{}"), text="a\nb")
@example(line=("run", "--once", "--batch-size", "{}"), text="9" * 5_000)
def test_a_command_does_it_or_says_what_is_wrong(line: tuple[str, ...], text: str) -> None:
    # Not to wait for a terminal's input.
    assume(not ("simulate" in line and text == "-"))

    code, said = said_by(tuple(one.replace("{}", text) for one in line))

    assert code in {0, 1, 2}
    assert code == 0 or said


@pytest.mark.usefixtures("_surroundings")
@tried(25, share=0.2)
@given(line=st.sampled_from(_WORKING), text=arguments)
@example(line=("traffic", "--rate", "{}"), text="nan")
@example(line=("traffic", "--rate", "{}"), text="inf")
@example(line=("demo", "--seconds", "{}"), text="٣")
def test_a_number_that_is_none_is_refused(line: tuple[str, ...], text: str) -> None:
    assume(not _NUMBER.fullmatch(text) and text not in {"--help", "worker", "scheduler", "--json", "--"})

    code, said = said_by(tuple(one.replace("{}", text) for one in line))

    assert code == 2
    assert said


def test_a_command_says_it_in_one_line_and_shows_no_traceback(tmp_path: Path) -> None:
    ended = run("adjourn", "simulate", "\udcff.csv", directory=tmp_path)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "adjourn: '\\udcff.csv': cannot be read: No such file or directory; give a CSV file\n"
