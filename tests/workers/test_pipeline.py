"""What an engine may say of itself: no more than the ladder's table, and never that hiding is erasing."""

from pathlib import Path

import pytest

from app.jobs.escalation import GUARANTEES
from workers.launcher import Outcome
from workers.pipeline import Overclaimed, agree


def said(guarantee: str, aim: str = "erasure") -> Outcome:
    """Return an outcome that claims this."""
    return Outcome(out=Path("run"), body={"guarantee": guarantee, "statement": {"aim": aim}})


@pytest.mark.parametrize("engine", GUARANTEES)
def test_an_engine_says_what_the_table_says(engine: str) -> None:
    agree(engine, said(GUARANTEES[engine]))
    for other in {"exact", "bounded", "approximate"} - {GUARANTEES[engine]}:
        with pytest.raises(Overclaimed):
            agree(engine, said(other))


@pytest.mark.parametrize("engine", GUARANTEES)
def test_a_filter_is_no_erasure(engine: str) -> None:
    with pytest.raises(Overclaimed):
        agree(engine, said(GUARANTEES[engine], aim="suppression"))
