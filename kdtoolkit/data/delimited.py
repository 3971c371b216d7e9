"""CSV and TSV, one record at a time, with the line on which each begins.

Two dialects. *Quoted* is RFC 4180: a field in double quotes may hold delimiters, line ends and doubled quotes. *Plain*
is that of the official GLUE files: a quote is a character like any other.

With `quoting: auto` a CSV file is quoted. A TSV file is quoted if all of it is valid RFC 4180 (every row has as many
fields as the first one, and a quote stands only around a field or doubled inside one) and quotes are needed to read it:
a field of the first row is in quotes, or some quoted field holds a quote, a tab or a line end. Otherwise it is plain.
"""

from __future__ import annotations

from collections.abc import Iterator

Line = tuple[int, str]
Record = tuple[int, list[str]]

LONGEST_RECORD = 16_000_000
"""Characters after which an open quote is taken to be a stray one, so that it does not swallow a large file."""


class Malformed(ValueError):
    """A record that breaks RFC 4180; `line` is where it begins."""

    def __init__(self, line: int, cause: str) -> None:
        self.line, self.cause = line, cause
        super().__init__(cause)


def plain_records(lines: Iterator[Line], delimiter: str) -> Iterator[Record]:
    """Records of a file in which a quote is a character; blank lines are skipped."""
    for number, line in lines:
        if content := _without_end(line):
            yield number, content.split(delimiter)


def quoted_records(lines: Iterator[Line], delimiter: str, *, strict: bool = False) -> Iterator[Record]:
    """Records of an RFC 4180 file; blank lines are skipped.

    strict: a quote inside a field without quotes is an error too, not a character.
    Raises Malformed.
    """
    for number, line in lines:
        if '"' in line:
            yield number, _quoted_fields(number, line, lines, delimiter, strict)
        elif content := _without_end(line):
            yield number, content.split(delimiter)


def _quoted_fields(number: int, text: str, lines: Iterator[Line], delimiter: str, strict: bool) -> list[str]:
    fields: list[str] = []
    position = 0
    while True:
        if not text.startswith('"', position):
            end = text.find(delimiter, position)
            field = _without_end(text[position:]) if end < 0 else text[position:end]
            if strict and '"' in field:
                raise Malformed(number, "a field without quotes around it holds a quote")
            fields.append(field)
            if end < 0:
                return fields
            position = end + 1
            continue
        search = position + 1
        while True:
            end = text.find('"', search)
            if end < 0:
                search = len(text)
                following = next(lines, None)
                if following is None or search > LONGEST_RECORD:
                    raise Malformed(number, f"field {len(fields) + 1} opens a quote that is never closed")
                text += following[1]
            elif text.startswith('"', end + 1):
                search = end + 2
            else:
                break
        fields.append(text[position + 1 : end].replace('""', '"'))
        position = end + 1
        if text.startswith(delimiter, position):
            position += 1
        elif _without_end(text[position:]):
            raise Malformed(number, f"field {len(fields)} goes on after its closing quote")
        else:
            return fields


def is_quoted(lines: Iterator[Line], delimiter: str) -> tuple[bool, bool]:
    """(whether a TSV file is of the quoted dialect, whether it holds a quote at all), by the rule above."""
    first = next(lines, None)
    if first is None:
        return False, False
    any_quote = '"' in first[1]
    needed = first[1].startswith('"') or f'{delimiter}"' in first[1]

    def watched() -> Iterator[Line]:
        nonlocal any_quote
        yield first
        for line in lines:
            any_quote = any_quote or '"' in line[1]
            yield line

    width = None
    try:
        for _, fields in quoted_records(watched(), delimiter, strict=True):
            width = width or len(fields)
            if len(fields) != width:
                # Whether a quote follows matters for the note only, and a plain file shows one soon or never.
                return False, any_quote or any('"' in line for _, line in lines)
            if any_quote and not needed:
                needed = any(mark in field for field in fields for mark in ('"', delimiter, "\n", "\r"))
    except Malformed:
        return False, True
    return needed and any_quote, any_quote


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")
