"""The statement: its form, and what the issuer refuses to say."""

import dataclasses
import json
from datetime import datetime
from decimal import Decimal
from itertools import product
from typing import Any, get_args
from uuid import UUID

import pytest

from app.certificates import check, statement
from app.signing import canonical
from app.transparency import tree
from tests.app.certificates.making import CERTIFICATE_ID, SHARDED, WHOLE, facts, manifest, sha256

BOUND: dict[str, Any] = {"name": "extraction_upper", "value": "0.0099", "form": "float32/none", "n": 300}


def test_the_form() -> None:
    said = statement.build(facts())
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://lethe.example/attestation/erasure-certificate/v1"
    assert [each["name"] for each in said["subject"]] == ["manifest.json", "config.json", "model.safetensors"]
    predicate = said["predicate"]
    assert predicate["certificateId"] == "urn:uuid:8d1c6c0e-7a54-4e7e-9a55-0f3b0f6f2c11"
    assert predicate["issuedOn"] == "2026-11-21T10:00:00Z"
    assert predicate["request"]["receivedOn"] == "2026-11-02"
    assert predicate["records"]["scheme"] == "rc1"
    assert predicate["method"]["class"] == "approximate"
    assert predicate["verification"]["unit"] == "subject"
    assert predicate["status"] == {"list": None}
    assert predicate["supersedes"] is None
    assert predicate["model"]["omsRoot"] is None
    assert predicate["disposition"] == {"previous": "quarantined-at-publication", "destroyWithinDays": 14}
    assert predicate["verification"]["bounds"][0] == {
        "name": "residual_ratio_upper", "value": "0.13", "limit": "0.2", "confidence": "0.95",
        "form": "float32/none", "m": 999,
    }  # fmt: skip


def test_the_bytes_are_canonical_and_the_same_each_time() -> None:
    payload = canonical.encode(statement.build(facts()))
    assert payload == canonical.encode(statement.build(facts()))
    assert payload == canonical.encode(json.loads(payload))


def test_the_checker_takes_what_the_issuer_says() -> None:
    check.fits(statement.build(facts()), check.STATEMENT, "statement")
    bare = facts(cumulative=None, previous_is_quarantined=False, evidence=[], bounds=[BOUND])
    check.fits(statement.build(bare), check.STATEMENT, "statement")


def test_issuer_and_checker_know_the_same_words() -> None:
    assert set(get_args(statement.Level)) == set(check.LEVELS)
    assert set(get_args(statement.MethodClass)) == set(check.CEILING)
    assert set(get_args(statement.Limitation)) == set(check.LIMITATIONS)


RANKS = ["exact", "certified", "verified", "executed", "inconclusive"]
CEILINGS = {"exact": 0, "bounded": 1, "approximate": 2}
CARRIED = {"exact": "VNIF", "certified": "VNI", "verified": "V", "executed": "N", "inconclusive": "VNI"}


@pytest.mark.parametrize(("level", "kind", "verdict"), list(product(RANKS, CEILINGS, "VNIF")))
def test_no_level_above_its_ceiling_or_its_verdict(level: str, kind: str, verdict: str) -> None:
    stated = facts(level=level, method_class=kind, verdict=verdict)
    if RANKS.index(level) >= CEILINGS[kind] and verdict in CARRIED[level]:
        assert statement.build(stated)["predicate"]["assurance"]["level"] == level
    else:
        with pytest.raises(ValueError, match=r"ceiling|cannot stand"):
            statement.build(stated)


@pytest.mark.parametrize(
    "changes",
    [
        {"level": "failed"},
        {"level": "verified", "bounds": []},
        {"limitations": []},
        {"limitations": ["L-OUTPUT"]},
        {"limitations": [*statement.ALWAYS, "L-OUTPUT"]},
        {"limitations": [*statement.ALWAYS, "L-NEW"]},
        {"bounds": [{**BOUND, "value": 0.0099}]},
        {"bounds": [{**BOUND, "value": "9.9e-3"}]},
        {"bounds": [{**BOUND, "value": "NaN"}]},
        {"bounds": [{**BOUND, "remark": "free text"}]},
        {"erasure_epoch": -1},
        {"erasure_epoch": 2**53},
        {"code": "abc"},
        {"previous": sha256(b"x").upper()},
        {"line": "two\nlines"},
        {"forms": {}},
        {"destroy_within_days": 31},
        {"issued_at": datetime(2026, 11, 21, 10)},  # noqa: DTZ001  a time without its zone is the case
        {"certificate_id": UUID("01890a5d-ac96-774b-bcce-b302099a8057")},
        {"manifest": manifest({})},
    ],
)
def test_what_may_not_be_said(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        statement.build(facts(**changes))


def test_decimals_are_printed_without_exponent() -> None:
    said = statement.build(facts(bounds=[{**BOUND, "value": Decimal("1E-7"), "limit": Decimal("0.010")}]))
    assert said["predicate"]["verification"]["bounds"][0]["value"] == "0.0000001"
    assert said["predicate"]["verification"]["bounds"][0]["limit"] == "0.010"


def test_without_a_promise_there_is_no_disposition() -> None:
    assert statement.build(facts(previous_is_quarantined=False))["predicate"]["disposition"] is None


def test_the_subjects_are_the_manifest_and_its_files_in_order() -> None:
    named = statement.subjects(manifest(SHARDED))
    assert named[0] == ("manifest.json", sha256(manifest(SHARDED)))
    assert named[1:] == [(name, sha256(content)) for name, content in SHARDED.items()]
    assert statement.subjects(manifest(WHOLE))[0] != named[0]


def test_the_cumulative_list_only_grows() -> None:
    ids = [UUID(int=i, version=4) for i in range(5)]
    leaves = [tree.leaf_hash(statement.urn(each).encode()) for each in ids]
    old, new = statement.cumulative(ids[:3]), statement.cumulative(ids)
    assert (old["size"], new["size"]) == (3, 5)
    tree.verify_consistency(
        3, 5, bytes.fromhex(old["root"]), bytes.fromhex(new["root"]), tree.consistency_proof(leaves, 3)
    )


def test_nothing_of_the_opening_is_in_the_statement() -> None:
    stated = facts()
    text = canonical.encode(statement.build(stated)).decode()
    opened = stated.records.openings[0]
    for secret in (stated.request.request_id, stated.request.nonce, opened.nonce, opened.canonical_sha256):
        assert secret not in text
    assert str(CERTIFICATE_ID) in text
    assert dataclasses.is_dataclass(stated)
