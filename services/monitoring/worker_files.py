"""The figures of a command's worker processes, which prometheus_client keeps in files, added up."""

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from services.logs import get_logger

log = get_logger(__name__)


class WorkerFiles(Collector):
    """Adds up the files of ``directory``. One that cannot be read is left out, and said to be once.

    Who is killed while it makes a file, or meets a full disk, leaves one that is empty or torn.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unreadable: set[str] = set()

    def describe(self) -> list[Metric]:
        """Return nothing: what there is, is known when it is asked for."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of this moment."""
        files = [str(path) for path in self._directory.glob("*.db")]
        try:
            return _added_up(files)
        except Exception:  # noqa: BLE001 - whatever a torn file makes of it; which one it is, is found out next
            return _added_up([path for path in files if self._is_readable(path)])

    def _is_readable(self, path: str) -> bool:
        try:
            list(MmapedDict.read_all_values_from_file(path))  # type: ignore[no-untyped-call]
        except FileNotFoundError:
            return False  # its process has just ended
        except Exception as error:  # noqa: BLE001 - see above
            if path not in self._unreadable:
                self._unreadable.add(path)
                log.warning("figures of a process are left out: they cannot be read", file=path, reason=repr(error))
            return False
        return True


def _added_up(files: list[str]) -> Iterable[Metric]:
    added: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return added
