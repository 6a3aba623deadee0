"""The directory of a worker command: its own, empty at its start, gone when the next one starts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.monitoring.run_directory import hold_run_directory
from tests.support import wait_for

#: Starts processes as dramatiq does, each of which says what directory it has, and keeps it until it is told to end.
COMMAND = """
import multiprocessing, sys, time
from services.monitoring.run_directory import run_directory

def work(said):
    directory = run_directory()
    (directory / f"figures-{multiprocessing.current_process().pid}.db").touch()
    said.put(str(directory))
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    said = multiprocessing.Queue()
    for _ in range(int(sys.argv[1])):
        multiprocessing.Process(target=work, args=(said,)).start()
    for _ in range(int(sys.argv[1])):
        print(said.get(), flush=True)
    sys.stdin.read()
    for process in multiprocessing.active_children():
        process.kill()
"""


@contextmanager
def command(base: Path, *, processes: int = 2, method: str = "fork") -> Iterator[Path]:
    """Run a command; yields the directory that all of its processes said they have."""
    script = base.parent / "command.py"
    script.write_text(COMMAND)
    project = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "dramatiq_prom_db": str(base), "PYTHONPATH": project}
    with subprocess.Popen(
        [sys.executable, str(script), str(processes), method],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        try:
            (directory,) = {process.stdout.readline().strip() for _ in range(processes)}
            yield Path(directory)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_all_processes_of_a_command_share_one_however_they_are_started(method: str, tmp_path: Path) -> None:
    with command(tmp_path / "base", processes=3, method=method) as directory:
        assert directory.parent == tmp_path / "base"
        assert len(list(directory.glob("figures-*.db"))) == 3
        assert directory.stat().st_mode & 0o777 == 0o700


def test_two_commands_have_two(tmp_path: Path) -> None:
    with command(tmp_path / "base") as one, command(tmp_path / "base") as other:
        assert one != other
        assert len(list(one.glob("*.db"))) == len(list(other.glob("*.db"))) == 2


def test_a_command_clears_away_what_killed_ones_left_and_not_what_is_in_use(tmp_path: Path) -> None:
    with command(tmp_path / "base") as living:
        with command(tmp_path / "base") as killed:
            pass
        assert killed.exists()

        def is_cleared() -> bool:
            with command(tmp_path / "base"):
                return not killed.exists()

        wait_for(is_cleared, what="the end of the killed processes, and of what they left")
        assert len(list(living.glob("*.db"))) == 2


def test_what_an_earlier_command_of_the_same_number_left_is_not_counted_again(tmp_path: Path) -> None:
    directory = tmp_path / "run-7"
    directory.mkdir()
    (directory / "counter_8.db").touch()

    lock = hold_run_directory(directory)
    assert list(directory.glob("*.db")) == []
    (directory / "counter_9.db").touch()
    other = hold_run_directory(directory)  # a second process of the same command
    assert list(directory.glob("*.db")) == [directory / "counter_9.db"]

    # As what cleans temporary directories by age does with files.
    (directory / "counter_9.db").unlink()
    (directory / "counter_9.db").touch()
    os.close(lock)
    third = hold_run_directory(directory)
    assert list(directory.glob("*.db")) == [directory / "counter_9.db"]
    os.close(other)
    os.close(third)
    os.close(hold_run_directory(directory))
    assert list(directory.glob("*.db")) == []


def test_what_is_not_ours_beside_it_stops_no_start_and_stays(tmp_path: Path) -> None:
    (tmp_path / "run-notes").touch()
    (tmp_path / "run-elsewhere").symlink_to(tmp_path / "nowhere")

    os.close(hold_run_directory(tmp_path / "run-7"))

    assert (tmp_path / "run-notes").is_file()
    assert (tmp_path / "run-elsewhere").is_symlink()


def test_a_directory_in_use_stays_whatever_is_taken_out_of_it(tmp_path: Path) -> None:
    with command(tmp_path / "base") as living:
        for path in living.iterdir():
            path.unlink()
        with command(tmp_path / "base"):
            assert living.is_dir()
