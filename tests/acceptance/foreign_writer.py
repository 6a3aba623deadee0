"""A platform's own writer: plain SQL from two connections, until its standard input is closed. It knows no Adjourn.

    python foreign_writer.py URL LEDGER

It opens conversations, records activity, closes some, and tags ended ones. The ledger, written at the end, has what
it was told is done: of each conversation the last activity, and when it was closed; of each statement how long it took.
"""

import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

#: From one statement to the next of a connection, in seconds.
PAUSE = 0.002
ACTIVITY = """
UPDATE conversations SET updated_at = clock_timestamp(), status = 'progress'
WHERE conv_id = %s AND status IN ('pending', 'progress') RETURNING updated_at::text
"""


class Writer:
    """One connection's work, and what it was told of it."""

    def __init__(self, url: str, number: int, *, in_transactions: bool) -> None:
        self._random = random.Random(number)
        self._number = number
        self._in_transactions = in_transactions
        self._connection = psycopg.connect(url, autocommit=True)
        self.known: list[str] = [
            str(row[0])
            for row in self._connection.execute(
                "SELECT conv_id FROM conversations WHERE status = 'progress' AND subject <> 'twice'"
                " AND updated_at > now() - interval '10 minutes' ORDER BY from_number"
            )
        ][number::2][:2_000]
        self._ended = [
            str(row[0])
            for row in self._connection.execute("SELECT conv_id FROM conversations WHERE status = 'closed' LIMIT 500")
        ]
        self.opened: dict[str, str] = {}
        self.active_at: dict[str, str] = {}
        self.closed_at: dict[str, float] = {}
        self.waits: list[tuple[float, float, str]] = []
        self.errors: list[str] = []

    def work(self, stopped: threading.Event) -> None:
        """Go on until ``stopped``."""
        while not stopped.wait(PAUSE):
            started = time.time()
            kind = self._random.choices(["open", "activity", "close", "tag"], [2, 6, 1, 1])[0]
            try:
                getattr(self, f"_{kind}")()
            except Exception as error:  # noqa: BLE001 - whatever it is, the ledger has it
                self.errors.append(f"{kind}: {error}")
            self.waits.append((started, time.time() - started, kind))

    def _open(self) -> None:
        number = f"+49 {self._number} {len(self.opened)}"
        row = self._one(
            "INSERT INTO conversations (owner_id, channel, from_number, to_number) "
            "VALUES ('owner-7', 'sms', %s, '+331') RETURNING conv_id::text, updated_at::text",
            number,
        )
        self.opened[row[0]] = number
        self.active_at[row[0]] = row[1]
        self.known.append(row[0])

    def _activity(self) -> None:
        one, other = sorted(self._random.sample(self.known, 2))
        if not self._in_transactions:
            self.active_at[one] = self._one(ACTIVITY, one)[0]
            return
        # Two rows and a pause: locks that are held, in any order of others.
        with self._connection.transaction():
            first = self._one(ACTIVITY, one)[0]
            time.sleep(PAUSE)
            second = self._one(ACTIVITY, other)[0]
        self.active_at |= {one: first, other: second}

    def _close(self) -> None:
        one = self.known.pop(self._random.randrange(len(self.known)))
        self._one(
            "UPDATE conversations SET status = 'closed', updated_at = clock_timestamp() WHERE conv_id = %s RETURNING 1",
            one,
        )
        self.active_at.pop(one, None)
        self.closed_at[one] = time.time()

    def _tag(self) -> None:
        one = self._random.choice(self._ended)
        self._one("UPDATE conversations SET tags = tags || 'seen'::text WHERE conv_id = %s RETURNING 1", one)

    def _one(self, statement: str, parameter: str) -> Any:
        row = self._connection.execute(statement.encode(), [parameter]).fetchone()
        assert row is not None, f"no row: {statement}"
        return row


def main() -> None:
    url, ledger = sys.argv[1:]
    writers = [Writer(url, number, in_transactions=number == 1) for number in range(2)]
    stopped = threading.Event()
    threads = [threading.Thread(target=writer.work, args=[stopped]) for writer in writers]
    for thread in threads:
        thread.start()
    print("writing", flush=True)  # noqa: T201 - for whoever started it
    sys.stdin.read()
    stopped.set()
    for thread in threads:
        thread.join()
    told = [{name: value for name, value in vars(one).items() if not name.startswith("_")} for one in writers]
    Path(ledger).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
