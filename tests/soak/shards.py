"""The check of a history too long to be held at once: some keys after the others, until all are done."""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from zlib import crc32

from tests.histories import record
from tests.histories.check import check
from tests.histories.final import Event, FinalState, Row
from tests.histories.findings import Finding

#: Of an hour some ten thousand operations are in each.
_SHARDS = 64


def check_in_shards(
    history: Path, final: FinalState, directory: Path, *, allowed: timedelta, shards: int = _SHARDS
) -> list[Finding]:
    """Return what is wrong with the whole of ``history``, which is split into files below ``directory``.

    No rule is about two keys, so what is found is what would be found at once. Only the database's clock is known from
    fewer readings to each part, which allows too much rather than too little.
    """
    directory.mkdir()
    paths = [directory / f"{number:02}.jsonl" for number in range(shards)]
    _split(history, paths)
    found: list[Finding] = []
    for path, state in zip(paths, _split_state(final, shards), strict=True):
        part = record.read(path)
        found += check(part.operations, state, part.checkpoints, allowed=allowed)
        path.unlink()
    return found


def _shard_of(key: str, shards: int) -> int:
    return crc32(key.encode()) % shards


def _split(history: Path, paths: list[Path]) -> None:
    """Write the lines of each key, in their order, into one file. Checkpoints are of no key, and all in one as well."""
    with ExitStack() as streams, history.open() as lines:
        parts = [streams.enter_context(path.open("w")) for path in paths]
        for line in lines:
            parts[_shard_of(json.loads(line).get("key", ""), len(parts))].write(line)


def _split_state(final: FinalState, shards: int) -> Iterator[FinalState]:
    rows: defaultdict[int, list[Row]] = defaultdict(list)
    events: defaultdict[int, list[Event]] = defaultdict(list)
    shard_of_conversation = {}
    for row in final.rows:
        shard = shard_of_conversation[row.conv_id] = _shard_of(row.session_key, shards)
        rows[shard].append(row)
    for event in final.events:
        # One of no conversation is for somebody to find.
        events[shard_of_conversation.get(event.conv_id, 0)].append(event)
    for shard in range(shards):
        yield FinalState(tuple(rows[shard]), tuple(events[shard]), final.read_at)
