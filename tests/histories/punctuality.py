"""Nothing is left due for longer than is allowed, once the faults are over."""

from collections.abc import Iterable
from datetime import timedelta

from tests.histories.book import ACTIVE
from tests.histories.final import FinalState
from tests.histories.findings import Finding, FindingKind
from tests.histories.instants import text_of
from tests.histories.record import Checkpoint


def check_checkpoints(checkpoints: Iterable[Checkpoint]) -> list[Finding]:
    """Return the checkpoints at which something was due for too long."""
    found = []
    for one in checkpoints:
        if one.due_since is None or one.at - one.due_since <= timedelta(seconds=one.allowed):
            continue
        late = (one.at - one.due_since).total_seconds()
        after = f", after {one.after}" if one.after else ""
        text = f"at {text_of(one.at)} something was due for {late:.3f} s, allowed are {one.allowed:.3f} s{after}"
        found.append(Finding(FindingKind.LEFT_DUE, "", text))
    return found


def check_rest(final: FinalState, allowed: timedelta) -> list[Finding]:
    """Return the conversations that were due for longer than ``allowed`` when the final state was read."""
    found = []
    for row in final.rows:
        deadline = min(row.idle_at, row.expires_at)
        if row.status in ACTIVE and final.read_at - deadline > allowed:
            text = f"{row.conv_id} is {row.status} at {text_of(final.read_at)}, and was due from {text_of(deadline)}"
            found.append(Finding(FindingKind.LEFT_DUE, row.session_key, text))
    return found
