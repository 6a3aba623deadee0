"""The Redis under test: a real redis-server that can be killed, restarted and emptied."""

import shutil
from pathlib import Path

from tests.servers import RedisServer


class Server(RedisServer):
    """A redis-server with its data in ``directory``.

    Its append-only file is synced before every reply (``appendfsync always``): "restarted with its data" has to mean
    all of it. With ``everysec``, a write may be answered while it still waits for a sync that is under way, and a
    killed Redis then forgets what it confirmed. That is another fault, of which the loss of all data is the worst case.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "--appendonly", "yes", "--appendfsync", "always", "--save", "")

    def start(self) -> None:
        """Start it, and return when it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        super().start()

    def empty(self) -> None:
        """Delete the data of a server that is stopped."""
        shutil.rmtree(self.directory)
