"""``adjourn status --watch`` on a terminal and off one, and ``--json``: on real servers that go away and come back."""

import codecs
import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.acceptance.commands import BIN, environment, run
from tests.servers import redis_server_with
from tests.support import free_port, wait_for

ENTER_SCREEN, LEAVE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
HOME = "\x1b[H"


class Terminal:
    """A command on a terminal of its own, and all that it has drawn there."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self.drawn = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def frames(self) -> list[str]:
        """What was drawn, one after the other, without colours; the last one perhaps not all of it yet."""
        return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frame) for frame in self.drawn.split(HOME)]

    @property
    def frame(self) -> str:
        return self.frames[-1]

    def times_around_a_width(self, columns: int) -> tuple[str, str] | None:
        """Return the times in the frames before and after the change to so many columns."""
        whole = [frame for frame in self.frames[:-1] if "by the clock of" in frame]
        first = next((number for number, frame in enumerate(whole) if len(frame.splitlines()[0]) == columns), None)
        return None if first is None else (time_of(whole[first - 1]), time_of(whole[first]))

    def resize(self, *, rows: int, columns: int) -> None:
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press_ctrl_c(self) -> None:
        os.write(self._descriptor, b"\x03")

    def wait_for(self, text: str) -> None:
        wait_for(lambda: text in self.frame, what=f"{text!r} on the terminal")

    def wait_for_another_look(self) -> None:
        looks = len(self.frames)
        wait_for(lambda: len(self.frames) > looks and "by the clock" in self.frame, what="another look")

    def wait_for_end(self) -> int:
        code = self.process.wait(timeout=30)
        self.wait_until_all_is_read()
        return code

    def wait_until_all_is_read(self) -> None:
        """Wait, once the command has ended, until its last words are here, and nobody reads any more."""
        self._reader.join(timeout=30)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()  # a letter may come in two pieces
        with suppress(OSError):  # its other end is closed
            while received := os.read(self._descriptor, 65_536):
                self.drawn += decoder.decode(received)


def time_of(frame: str) -> str:
    return next(line.strip() for line in frame.splitlines() if line.startswith("time "))


@contextmanager
def on_a_terminal(
    *arguments: str, directory: Path, variables: dict[str, str], rows: int = 24, columns: int = 80
) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [str(BIN / arguments[0]), *arguments[1:]],
        cwd=directory,
        env={**environment(variables), "TERM": "xterm-256color"} | variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        # Ctrl-C is for whose terminal it is.
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no thread of this process is in the way
    )
    os.close(theirs)
    terminal = Terminal(process, ours)
    try:
        yield terminal
    finally:
        process.kill()
        process.wait()
        # Else it would go on with whatever is opened next under the same number.
        terminal.wait_until_all_is_read()
        os.close(ours)


def test_the_screen_survives_a_redis_that_goes_away_and_ends_with_ctrl_c(sqlite_url: str, tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server:
        variables = {"REDIS_URL": server.url, "DATABASE_URL": sqlite_url}
        with on_a_terminal("adjourn", "status", "--watch", directory=tmp_path, variables=variables) as terminal:
            terminal.wait_for("by the clock of Redis")
            # Of the last frame not all may be there yet.
            expected = "conversations may end late: 0 active, none due"
            wait_for(lambda: terminal.frame.startswith(expected), what=expected)
            terminal.resize(rows=8, columns=80)
            terminal.wait_for("more lines, for a higher window")
            terminal.resize(rows=40, columns=80)
            terminal.wait_for("by the clock of Redis")
            # A new size is drawn at once: with the time of the last look, and not with the next one; unless the machine
            # is so busy that this one comes first, which it may be once.
            for columns in (100, 120, 140):
                terminal.wait_for_another_look()
                terminal.resize(rows=40, columns=columns)
                before, after = wait_for(
                    lambda width=columns: terminal.times_around_a_width(width),  # type: ignore[misc]
                    what="a frame of the new width",
                )
                if before == after:
                    break
            assert before == after

            server.kill()
            terminal.wait_for("! cannot use Redis at")
            terminal.wait_for("by the clock of the database")
            server.start()
            terminal.wait_for("by the clock of Redis")

            terminal.press_ctrl_c()
            assert terminal.wait_for_end() == 0
            assert terminal.drawn.count(ENTER_SCREEN) == terminal.drawn.count(LEAVE_SCREEN) == 1
            assert "Traceback" not in terminal.drawn


def test_the_screen_ends_with_sigterm_before_anything_has_answered(tmp_path: Path) -> None:
    # It takes connections, and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variables = {"REDIS_URL": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"}
        with on_a_terminal("adjourn", "status", "--watch", directory=tmp_path, variables=variables) as terminal:
            terminal.wait_for("asking Redis and the database")
            terminal.process.send_signal(signal.SIGTERM)

            assert terminal.wait_for_end() == 0
            assert LEAVE_SCREEN in terminal.drawn
            assert "cannot use Redis" not in terminal.drawn


def test_where_there_is_no_terminal_it_says_so_in_one_line(tmp_path: Path) -> None:
    # Colours are all that this asks for.
    done = run("adjourn", "status", "--watch", directory=tmp_path, variables={"FORCE_COLOR": "1"})

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "adjourn: --watch draws on a terminal, and this is none; for programs: --watch --json\n"


def test_programs_get_an_object_a_line_until_they_read_no_more(redis_url: str, sqlite_url: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [str(BIN / "adjourn"), "status", "--watch", "--json"],
        cwd=tmp_path,
        env=environment({"REDIS_URL": redis_url, "DATABASE_URL": sqlite_url}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        line = process.stdout.readline()
        assert json.loads(line)["database"]["state"] == "answers"
        # It finds out when it writes the next one.
        process.stdout.close()

        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


def test_json_says_who_is_down_and_the_exit_code_too(tmp_path: Path, sqlite_url: str) -> None:
    dead = {
        "REDIS_URL": f"redis://:pa55word@127.0.0.1:{free_port()}/0",
        "DATABASE_URL": f"postgresql://adjourn:pa55word@127.0.0.1:{free_port()}/adjourn",
    }
    neither = run("adjourn", "status", "--json", directory=tmp_path, variables=dead)
    report = json.loads(neither.stdout)
    assert (neither.returncode, neither.stderr) == (1, "")
    assert [problem["kind"] for problem in report["problems"]] == ["redis_down", "database_down"]
    assert (report["punctuality"], report["clock"]) == ("unknown", "machine")
    assert "pa55word" not in neither.stdout

    shown = run("adjourn", "status", directory=tmp_path, variables={**dead, "DATABASE_URL": sqlite_url})
    assert (shown.returncode, shown.stderr) == (1, "")
    assert shown.stdout.startswith("conversations may end late: 0 active, none due\n! cannot use Redis at redis://***@")
    assert "pa55word" not in shown.stdout
