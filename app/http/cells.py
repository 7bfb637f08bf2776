"""Cells of CSV that no spreadsheet computes anything of. Pure."""

from collections.abc import Iterable

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet would compute (OWASP, CSV injection), full-width forms included."""


def csv_line(cells: Iterable[object]) -> bytes:
    """Return one line of CSV that no spreadsheet computes anything of (RFC 4180; OWASP).

    Every cell is quoted and quotes in it are doubled, so that no cell can end itself and begin another; what
    would be computed gets a `'` before it. None is an empty cell.
    """
    return (",".join(_cell(cell) for cell in cells) + "\r\n").encode()


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    safe = f"'{text}" if text.startswith(FORMULA) else text
    return '"' + safe.replace('"', '""') + '"'
