"""The figures of worker processes, whatever state their files are in."""

import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.monitoring.worker_files import WorkerFiles

#: A process that counts to three, in files.
COUNT = """
from prometheus_client import CollectorRegistry, Counter
Counter("things", "Things.", registry=CollectorRegistry()).inc(3)
"""


def count_in(directory: Path) -> None:
    """Have a process count to three."""
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", COUNT], check=True, env=environment)


def things(files: WorkerFiles) -> float:
    return sum(sample.value for metric in files.collect() for sample in metric.samples if sample.name == "things_total")


def test_the_figures_of_all_processes_are_added_up_also_of_those_that_have_ended(tmp_path: Path) -> None:
    for _ in range(2):
        count_in(tmp_path)

    assert things(WorkerFiles(tmp_path)) == 6


@pytest.mark.parametrize("length", [0, 40], ids=["empty", "cut off"])
def test_a_file_that_cannot_be_read_costs_no_others_and_is_said_once(length: int, tmp_path: Path) -> None:
    count_in(tmp_path)
    (whole,) = tmp_path.glob("*.db")
    (tmp_path / "counter_1.db").write_bytes(whole.read_bytes()[:length])
    files = WorkerFiles(tmp_path)

    with capture_logs() as said:
        assert [things(files) for _ in range(3)] == [3, 3, 3]

    (line,) = said
    assert line["file"] == str(tmp_path / "counter_1.db")


def test_an_empty_directory_has_no_figures(tmp_path: Path) -> None:
    assert list(WorkerFiles(tmp_path).collect()) == []
