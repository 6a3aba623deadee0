"""Which metrics and labels a PromQL expression names. Prometheus' own tools parse it; this only reads the names."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*) | (?P<space>\s+) | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | (?P<range>\[[^\]]*\])
    | (?P<number>\d[\w.]*) | (?P<word>[A-Za-z_:][\w:]*) | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])""",
    re.VERBOSE,
)
_AGGREGATED = {"by", "without"}
_MATCHED = {"on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}


@dataclass(frozen=True)
class Named:
    """A metric and the labels that are named of it, by its matchers or in a clause, with exact values if any."""

    metric: str
    labels: set[str] = field(default_factory=set)
    values: Mapping[str, str] = field(default_factory=dict)


def named_in(expression: str) -> list[Named]:
    """Return each selector of ``expression``, with the labels that the clauses around it name as well.

    A clause of an aggregation has to come before its argument: ``sum by (le) (…)``. Raises ValueError for what it
    cannot read.
    """
    return _Reader(expression).found


def matched_in(expression: str) -> set[str]:
    """Return the labels by which operators match one side with the other: those of ``on`` and ``ignoring``."""
    return _Reader(expression).matched


class _Reader:
    def __init__(self, expression: str) -> None:
        self._tokens = list(_tokens_of(expression))
        self._place = 0
        #: For each open bracket, the labels that its aggregation names.
        self._open: list[set[str]] = []
        self.found: list[Named] = []
        self.matched: set[str] = set()
        self._read()

    def _read(self) -> None:
        clause: set[str] = set()
        while self._place < len(self._tokens):
            token = self._next()
            if token in _AGGREGATED:
                clause = self._labels()
                if self._peek() != "(":
                    raise ValueError(f"the clause comes after its argument, near {token} {sorted(clause)}")
            elif token in _MATCHED:
                # group_left may come without labels.
                self.matched |= self._labels() if self._peek() == "(" else set()
            elif token == "(":
                self._open.append(clause)
                clause = set()
            elif token == ")":
                self._open.pop()
            elif re.match(r"[A-Za-z_:]", token) and token.lower() not in _WORDS:
                self._read_word(token)

    def _read_word(self, word: str) -> None:
        if self._peek() == "(" or self._peek() in _AGGREGATED:
            return  # a function
        values = dict(self._matchers()) if self._peek() == "{" else {}
        exact = {label: value for label, (sign, value) in values.items() if sign == "=" and "$" not in value}
        self.found.append(Named(word, set(values).union(*self._open), exact))

    def _matchers(self) -> Iterator[tuple[str, tuple[str, str]]]:
        self._next()
        while self._peek() != "}":
            label, sign, value = self._next(), self._next(), self._next()
            yield label, (sign, value[1:-1])
            if self._peek() == ",":
                self._next()
        self._next()

    def _labels(self) -> set[str]:
        self._next()
        labels = set()
        while (token := self._next()) != ")":
            labels |= {token} - {","}
        return labels

    def _peek(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _next(self) -> str:
        self._place += 1
        return self._tokens[self._place - 1]


def _tokens_of(expression: str) -> Iterator[str]:
    place = 0
    while place < len(expression):
        found = _TOKEN.match(expression, place)
        if found is None:
            raise ValueError(f"cannot read {expression[place : place + 20]!r}")
        place = found.end()
        if found.lastgroup not in {"space", "comment", "range"}:
            yield found.group()
