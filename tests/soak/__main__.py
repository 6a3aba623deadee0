"""Run everything for an hour, with traffic and a fault now and then, and see whether anything grows that should not.

    python -m tests.soak [--short] [--rate N] [--seed S] [--slack SECONDS] [--write FILE] [--break NAME] [--keep]

Memory, descriptors, threads, connections, tables, indexes and Redis's keys are watched. At the end each of them is
flat, or a finding; and every answer that a client got is held against the tables, as after the chaos. Exit code 1 with
findings.
"""

import argparse
import secrets
import signal
import sys
from pathlib import Path

from rich.console import Console

from tests.soak.breakages import BREAKAGES
from tests.soak.plan import HOUR, SHORT
from tests.soak.run import run

#: What clients set out to do in a second: transactions that take their time leave some 230 of it.
_RATE = 330.0
#: Where there is no terminal to fit.
_WIDTH = 180


def main() -> int:
    """Run, print, and return the exit code."""
    options = _parse()
    # Whoever is told to stop leaves no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, soft_wrap=True)
    given = ["--short"] if options.short else []
    given += ["--seed", str(options.seed)] + (["--break", options.breakage] if options.breakage else [])
    return run(
        SHORT if options.short else HOUR,
        rate=options.rate,
        seed=options.seed,
        slack=options.slack,
        console=console,
        command=" ".join(["python -m tests.soak", *given]),
        write=options.write,
        breakage=BREAKAGES[options.breakage] if options.breakage else None,
        keep=options.keep,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--short", action="store_true", help="a minute, with bounds to match")
    parser.add_argument(
        "--rate", type=float, default=_RATE, help=f"operations that clients set out to do in a second ({_RATE:g})"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of traffic and faults (drawn)")
    parser.add_argument(
        "--slack",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="what a machine that is busy otherwise may add until all is well (0)",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this document")
    parser.add_argument("--break", dest="breakage", choices=BREAKAGES, help="have something grow on purpose")
    parser.add_argument("--keep", action="store_true", help="keep history, samples and logs also when all is well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
