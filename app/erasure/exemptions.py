"""On which grounds a request is refused in whole or in part, why it may take longer, what holds it.

Pure: the words of GDPR Art. 12 and 17, and what a set of records comes to when some are exempt.
"""

from collections.abc import Iterable
from enum import StrEnum


class Ground(StrEnum):
    """Why a request may be refused: paragraphs of GDPR Art. 12 and 17."""

    UNFOUNDED_OR_EXCESSIVE = "12.5"
    IDENTITY = "12.6"
    EXPRESSION = "17.3.a"
    LEGAL_OBLIGATION = "17.3.b"
    PUBLIC_HEALTH = "17.3.c"
    RESEARCH = "17.3.d"
    LEGAL_CLAIMS = "17.3.e"


class Exemption(StrEnum):
    """Why a record may be kept: Art. 17(3). Doubts about the person are no ground to keep a record."""

    EXPRESSION = "17.3.a"
    LEGAL_OBLIGATION = "17.3.b"
    PUBLIC_HEALTH = "17.3.c"
    RESEARCH = "17.3.d"
    LEGAL_CLAIMS = "17.3.e"


class ExtensionReason(StrEnum):
    """Why an answer may take three months: the two reasons of Art. 12(3)."""

    COMPLEXITY = "complexity"
    NUMBER_OF_REQUESTS = "number_of_requests"


class HoldReason(StrEnum):
    """Why records must not be erased for now."""

    LITIGATION = "litigation"
    INVESTIGATION = "investigation"
    REGULATOR = "regulator"
    PRESERVATION_ORDER = "preservation_order"


ERASE = "erase"


def action(exempt: str | None) -> str:
    """Return what is to be done with a record, in the words of the record-set hash (R14)."""
    return ERASE if exempt is None else f"exempt:{exempt}"


def ground_of_all(exempt: Iterable[str | None]) -> str | None:
    """Return the ground on which nothing of a set is erased; None if something is, or it is empty.

    A set that is exempt on several grounds is refused on the first of them by the article's order.
    """
    grounds = list(exempt)
    given = [ground for ground in grounds if ground is not None]
    return min(given) if given and len(given) == len(grounds) else None
