"""Where in a TOML text each key stands: tomllib does not say, and an error with a line can be fixed."""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]\}\n#]+")
_STRING = re.compile(
    r'"""(?:\\.|"{1,2}(?!")|[^"\\])*"{3,5}'
    r"|'''(?:'{1,2}(?!')|[^'])*'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line numbers, from 1, of all keys and elements of arrays, by the path that leads to their values.

    `text` is TOML that tomllib has accepted: this only finds where things begin.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}  # of arrays of tables

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self._text):
            line = self._line()
            if self._text.startswith("[[", self._at):
                self._at += 2
                table = self._elements(self._key())
                table = (*table, self._lengths.get(table, 0))
                self._lengths[table[:-1]] = int(table[-1]) + 1
                self._at += 2
                self._note(table, line)
            elif self._text[self._at] == "[":
                self._at += 1
                table = self._elements(self._key())
                self._at += 1
                self._note(table, line)
            else:
                self._pair(table)
        return self._lines

    def _elements(self, keys: KeyPath) -> KeyPath:
        """A key of a header names the last element of an array of tables that it goes through."""
        path: KeyPath = ()
        for number, key in enumerate(keys):
            path = (*path, key)
            if path in self._lengths and number < len(keys) - 1:
                path = (*path, self._lengths[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = (*table, *self._key())
        self._note(path, line)
        self._at += 1  # the =
        self._value(path)

    def _key(self) -> KeyPath:
        parts: list[str | int] = []
        while True:
            self._skip(_SPACE)
            quoted = _STRING.match(self._text, self._at)
            found = quoted or _BARE.match(self._text, self._at)
            assert found is not None, "tomllib has accepted a key that this scanner cannot read"
            parts.append(tomllib.loads(f"x = {found[0]}")["x"] if quoted else found[0])
            self._at = found.end()
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        char = self._text[self._at]
        if char == "[":
            self._at += 1
            number = 0
            while self._text[self._skip(_BLANK)] != "]":
                self._note((*path, number), self._line())
                self._value((*path, number))
                number += 1
                if self._text[self._skip(_BLANK)] == ",":
                    self._at += 1
            self._at += 1
        elif char == "{":
            self._at += 1
            while self._text[self._skip(_BLANK)] != "}":
                self._pair(path)
                if self._text[self._skip(_BLANK)] == ",":
                    self._at += 1
            self._at += 1
        else:
            found = _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at)
            assert found is not None, "tomllib has accepted a value that this scanner cannot read"
            self._at = found.end()

    def _note(self, path: KeyPath, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _skip(self, what: re.Pattern[str]) -> int:
        found = what.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._at
