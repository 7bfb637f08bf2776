"""Public ids: what is written can be read, and nothing else can."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import NotFound
from app.http import ids


@given(st.uuids())
def test_an_id_survives_the_wire(id_: UUID) -> None:
    shown = ids.encode("er", id_)
    assert re.fullmatch(r"er_[0-7][0-9a-hjkmnp-tv-z]{25}", shown)
    assert ids.decode("er", shown) == id_


def test_the_known_pair_of_the_typeid_specification() -> None:
    assert (
        ids.encode("prefix", UUID("01890a5d-ac96-774b-bcce-b302099a8057"))
        == "prefix_01h455vb4pex5vsknk084sn02q"
    )


@given(st.uuids(), st.uuids())
def test_ids_sort_as_their_uuids_do(one: UUID, other: UUID) -> None:
    assert (ids.encode("er", one) < ids.encode("er", other)) == (one.int < other.int)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "er_",
        "01h455vb4pex5vsknk084sn02q",
        "job_01h455vb4pex5vsknk084sn02q",
        "er_81h455vb4pex5vsknk084sn02q",
        "er_01h455vb4pex5vsknk084sn02",
        "er_01h455vb4pex5vsknk084sn02l",
        "er_01H455VB4PEX5VSKNK084SN02Q",
        "ada@example.org",
    ],
)
def test_what_is_no_id_is_not_found_and_not_repeated(text: str) -> None:
    with pytest.raises(NotFound) as raised:
        ids.decode("er", text)
    assert text == "" or text not in str(raised.value) or text == "er_"
