"""Section ``simulate``: a message history through the command, on SQLite. It needs one: BENCH_HISTORY."""

import resource
import subprocess
import time

from benchmarks.bench import Bench
from benchmarks.commands import environment
from benchmarks.measures import Measurement, Target
from services.embedded.child import find_command

_NAME = "simulate"
_BOUND = 30.0


def run(bench: Bench) -> None:
    """Simulate what the options name, if they do."""
    history = bench.options.history
    if history is None:
        bench.say(f"{_NAME}: no history is named by BENCH_HISTORY; left out")
        return
    command = [
        find_command("adjourn"),
        "simulate",
        str(history.resolve()),
        "--idle-timeout",
        "30m",
        "--expire-after",
        "24h",
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with bench.doing(f"{_NAME}: {history.name}"):
        subprocess.run(
            command,
            env=environment({}, bench.directory),
            cwd=bench.directory,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    bench.say(f"{_NAME}  {took:10,.3f} s  {history.name}")
    bench.keep(Measurement(_NAME, history.name, "s", (took,), note=f"{busy:.1f} s of processor time"))
    bench.judge(Target("simulate", f"simulate {history.name}", "s", _BOUND, took))
