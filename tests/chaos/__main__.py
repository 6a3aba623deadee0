"""Break Adjourn on purpose, and see whether its promises hold.

    python -m tests.chaos [--only scheduling|conversations] [--faults N] [--seed S] [--short]
                          [--kind TEXT] [--slack SECONDS] [--write FILE] [--break NAME]

First the scheduling alone: was every slot enqueued once? Then the whole, with live traffic: was any conversation lost,
ended early, twice or late? Faults are drawn from a seed, each kind at least once. At the end of each part a table, and
exit code 1 with the findings when anything was wrong.
"""

import argparse
import secrets
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.chaos.breakages import BREAKAGES
from tests.chaos.conversations import run as conversations
from tests.chaos.conversations.plan import FAULTS
from tests.chaos.scheduling import run as scheduling

#: Of each part: ten minutes of scheduling, fifteen of conversations.
_FAULTS = 110
_PARTS = {"scheduling": scheduling.KINDS, "conversations": len(FAULTS)}
#: Where there is no terminal to fit.
_WIDTH = 160


def main() -> int:
    """Run, print, and return the exit code."""
    options = _parse()
    # Whoever is told to stop leaves no server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, soft_wrap=True)
    given = {"seed": options.seed, "console": console}
    runs: dict[str, Callable[..., int]] = {
        "scheduling": partial(scheduling.run, breakage=options.breakage),
        "conversations": partial(
            conversations.run,
            kind=options.kind,
            short=options.short,
            slack=options.slack,
            write=options.write,
            breakage=options.breakage,
        ),
    }
    parts = list(_PARTS)
    if options.breakage or options.only:
        parts = [BREAKAGES[options.breakage].part if options.breakage else options.only]
    codes = [runs[part](faults=_PARTS[part] if options.short else options.faults, **given) for part in parts]
    return max(codes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=str(__doc__).split("\n", 1)[0])
    least = max(_PARTS.values())
    parser.add_argument("--only", choices=_PARTS, help="one of the two parts")
    parser.add_argument(
        "--faults", type=int, default=_FAULTS, help=f"how many of each part, at least {least} ({_FAULTS})"
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="repeats a plan (drawn)")
    parser.add_argument(
        "--short", action="store_true", help="every kind of fault once, but for those that take minutes"
    )
    parser.add_argument(
        "--kind", default="", metavar="TEXT", help="of conversations, only faults with that in their names"
    )
    parser.add_argument(
        "--slack",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="what a machine that is busy otherwise may add to each bound of conversations (0)",
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table of conversations into this document")
    parser.add_argument(
        "--break",
        dest="breakage",
        choices=BREAKAGES,
        help="break the product first, and do the part that has to find it",
    )
    options = parser.parse_args()
    if not any(options.kind in fault.name for fault in FAULTS):
        parser.error(f"no such fault; there are: {', '.join(fault.name for fault in FAULTS)}")
    if options.faults < least and not options.kind:
        parser.error(f"it takes at least {least} faults")
    return options


if __name__ == "__main__":
    sys.exit(main())
