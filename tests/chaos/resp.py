"""Just enough of the Redis protocol to tell one request from the next."""

from dataclasses import dataclass

#: What ``b"*3\\r\\n"`` and ``b"$5\\r\\n"`` end with.
_END = b"\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A command as it came over the wire."""

    arguments: tuple[bytes, ...]
    raw: bytes

    @property
    def is_script(self) -> bool:
        return self.arguments[0].upper() in {b"EVALSHA", b"EVAL"}

    def mentions(self, text: bytes) -> bool:
        return any(text in argument for argument in self.arguments[1:])


class RequestReader:
    """Cuts a stream of bytes into requests; what is not complete yet is kept."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Request]:
        """Return the requests that ``data`` completes."""
        self._buffer += data
        requests = []
        while self._buffer:
            request = self._take()
            if request is None:
                break
            requests.append(request)
        return requests

    def _take(self) -> Request | None:
        header, position = self._line(0)
        if header is None:
            return None
        if not header.startswith(b"*"):
            raise ValueError(f"not a request: {header!r}")
        arguments = []
        for _ in range(int(header[1:])):
            size, position = self._line(position)
            if size is None:
                return None
            end = position + int(size[1:])
            if len(self._buffer) < end + len(_END):
                return None
            arguments.append(self._buffer[position:end])
            position = end + len(_END)
        raw, self._buffer = self._buffer[:position], self._buffer[position:]
        return Request(tuple(arguments), raw)

    def _line(self, start: int) -> tuple[bytes | None, int]:
        end = self._buffer.find(_END, start)
        return (None, start) if end < 0 else (self._buffer[start:end], end + len(_END))
