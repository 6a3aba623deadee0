"""What Linux tells of processes."""

from contextlib import suppress
from pathlib import Path

from tests.chaos.conversations.processes import Process
from tests.soak.series import Name

_KIBIBYTE = 1024


class Generations:
    """Tells apart those that follow one another under a name: the second redis-server is ``Redis (2)``."""

    def __init__(self) -> None:
        self._pids: dict[str, list[int]] = {}

    def name(self, subject: str, pid: int) -> str:
        """Return what to call ``subject`` as long as it has that pid."""
        known = self._pids.setdefault(subject, [])
        if pid not in known:
            known.append(pid)
        number = known.index(pid) + 1
        return subject if number == 1 else f"{subject} ({number})"


def read_process(subject: str, pid: int) -> dict[Name, float]:
    """Return memory, descriptors and threads of a process; nothing when it is gone."""
    with suppress(OSError):
        status = _fields(Path(f"/proc/{pid}/status"))
        return {
            (subject, "resident memory"): _first_number(status["VmRSS"]) * _KIBIBYTE,
            (subject, "descriptors"): float(_descriptors(pid)),
            (subject, "threads"): _first_number(status["Threads"]),
        }
    return {}


def read_command(process: Process, generations: Generations) -> dict[Name, float]:
    """Return the same of a command and of each process that it started."""
    found = read_process(f"{process.name} command" if process.children else process.name, process.pid)
    for number, pid in enumerate(process.children, 1):
        found |= read_process(generations.name(f"{process.name} process {number}", pid), pid)
    return found


def read_server(subject: str, pids: list[int]) -> dict[Name, float]:
    """Return how many processes a server has, their descriptors, and the memory that each has for itself, in total.

    Resident memory would count what they share, PostgreSQL's buffers, once for each that has met it.
    """
    private = descriptors = 0.0
    for pid in pids:
        with suppress(OSError):
            rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
            private += (_first_number(rollup["Private_Clean"]) + _first_number(rollup["Private_Dirty"])) * _KIBIBYTE
            descriptors += _descriptors(pid)
    return {
        (subject, "private memory"): private,
        (subject, "descriptors in total"): descriptors,
        (subject, "processes"): float(len(pids)),
    }


def read_metric_files(process: Process) -> dict[Name, float]:
    """Return number and size of the files in which a worker command keeps its metrics."""
    files = [path for path in process.log.with_suffix("").glob("metrics/**/*") if path.is_file()]
    size = 0
    for path in files:
        with suppress(OSError):
            size += path.stat().st_size
    subject = f"{process.name} metrics"
    return {(subject, "files"): float(len(files)), (subject, "size"): float(size)}


def _fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value for name, _, value in lines}


def _first_number(text: str) -> float:
    return float(text.split(maxsplit=1)[0])


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
