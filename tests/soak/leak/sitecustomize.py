"""Have every process leak what SOAK_LEAK says: ``memory``, ``files`` or ``threads``; see ``tests.soak.breakages``."""

import os
import threading
import time

#: In seconds.
_TICK = 1.0
#: A sixtieth of twelve megabytes: that much a minute.
_BYTES = 200_000
_kept: list[object] = []


def _leak_memory() -> None:
    _kept.append(bytearray(os.urandom(_BYTES)))


def _leak_files() -> None:
    _kept.append(open(os.devnull, "rb"))  # noqa: PTH123, SIM115 - it is a leak, before anything of ours is loaded


def _leak_threads() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


_LEAKS = {"memory": _leak_memory, "files": _leak_files, "threads": _leak_threads}


def _go_on_leaking() -> None:
    leak = _LEAKS[os.environ["SOAK_LEAK"]]
    while True:
        time.sleep(_TICK)
        leak()


def _begin() -> None:
    threading.Thread(target=_go_on_leaking, daemon=True).start()


_begin()
# A thread does not come along into the processes that a command forks.
os.register_at_fork(after_in_child=_begin)
