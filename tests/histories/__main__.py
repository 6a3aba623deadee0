"""Check a recorded history against the conversations that it left.

    python -m tests.histories HISTORY.jsonl FINAL.json [--allowed SECONDS]
    python -m tests.histories HISTORY.jsonl postgresql://… | sqlite:///…

Prints what is wrong, and exits with 1 when anything is.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from tests.histories import final, record
from tests.histories.check import check


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and return the exit code."""
    options = _parse(arguments)
    state = final.read_database(options.final) if "://" in options.final else final.read(Path(options.final))
    history = record.read(options.history)
    allowed = None if options.allowed is None else timedelta(seconds=options.allowed)
    found = check(history.operations, state, history.checkpoints, allowed=allowed)
    outcomes = Counter(one.outcome for one in history.operations)
    told = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in record.Outcome)
    keys = len({one.key for one in history.operations})
    sys.stdout.write(
        f"{len(history.operations)} operations ({told}) on {keys} keys, {len(history.checkpoints)} checkpoints, "
        f"{len(state.rows)} conversations, {len(state.events)} events: {len(found)} findings\n"
    )
    for finding in found:
        sys.stdout.write(f"- {finding}\n")
    return 1 if found else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("history", type=Path, metavar="HISTORY.jsonl")
    parser.add_argument("final", metavar="FINAL.json|URL", help="the final state, or the database to read it from")
    parser.add_argument("--allowed", type=float, help="how long something may be due at the end, in seconds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
