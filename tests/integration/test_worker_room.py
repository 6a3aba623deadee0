"""Room for the figures of a worker process: taken when it starts, or not at all."""

import subprocess
import sys
from pathlib import Path

from services.monitoring.worker_files import WorkerFiles
from services.monitoring.worker_room import ROOM, make_room

PROJECT = str(Path(__file__).resolve().parents[2])
#: A worker process, as far as its figures go. Given a limit, no file may be longer, as on a disk that is full.
WORK = """
import os, resource, sys
from pathlib import Path
from services.monitoring.worker_room import make_room

directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
make_room(directory)
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
registry = CollectorRegistry()
Counter("things", "Things.", registry=registry).inc(3)
Histogram("spans", "Spans.", registry=registry).observe(1)
Gauge("now", "Now.", registry=registry, multiprocess_mode="livesum").set(1)
Gauge("each", "Each.", registry=registry).set(1)
print(os.getpid())
"""


def work(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONPATH": PROJECT}
    return subprocess.run(
        [sys.executable, "-c", WORK, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_what_a_process_counts_has_its_room_on_the_disk_from_the_start(tmp_path: Path) -> None:
    make_room(tmp_path)

    for path in tmp_path.glob("*.db"):
        assert path.stat().st_size == ROOM
        assert path.stat().st_blocks * 512 >= ROOM


def test_prometheus_client_uses_that_room_and_makes_no_other_file(tmp_path: Path) -> None:
    pid = work(tmp_path).stdout.strip()

    assert {path.name for path in tmp_path.iterdir()} == {
        f"{kind}_{pid}.db" for kind in ("counter", "histogram", "gauge_all", "gauge_livesum")
    }
    assert all(path.stat().st_size == ROOM for path in tmp_path.iterdir())
    told = {sample.name: sample.value for metric in WorkerFiles(tmp_path).collect() for sample in metric.samples}
    assert (told["things_total"], told["spans_count"], told["now"], told["each"]) == (3, 1, 1, 1)


def test_where_there_is_no_room_nothing_is_left(tmp_path: Path) -> None:
    done = work(tmp_path, str(ROOM // 2))

    assert "OSError" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_nothing_but_room_has_no_figures(tmp_path: Path) -> None:
    make_room(tmp_path)
    assert any(tmp_path.iterdir())

    assert list(WorkerFiles(tmp_path).collect()) == []
