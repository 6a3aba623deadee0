"""What processes wrote that they should have had words for: tracebacks, in lines of their own or within one of JSON."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_BEGIN = "Traceback (most recent call last)"
#: The first line of a traceback that is not indented names the error.
_ERROR = re.compile(r"^(?=\S)(?!Traceback|During handling|The above exception)(.*)$", re.MULTILINE)


class Logs:
    """Reads logs on from where they were read last."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def new_tracebacks(self, logs: Iterable[Path], *, excuses: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield a line for each traceback that was written since, unless its error has one of ``excuses`` in it."""
        for log in logs:
            text = log.read_text(errors="replace")
            new = text[self._read.get(log, 0) :]
            self._read[log] = len(text)
            for part in new.split(_BEGIN)[1:]:
                # In JSON the ends of its lines are escaped.
                found = _ERROR.search(part.replace("\\n", "\n").lstrip(":\n"))
                error = found.group(1).strip() if found else part[:200]
                if not any(excuse in error for excuse in excuses):
                    yield f"traceback in {log.name}: {error[:300]}"
