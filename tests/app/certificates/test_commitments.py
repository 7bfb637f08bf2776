"""Commitments: the frozen values, and that they hide and bind."""

import hashlib
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.certificates import commitments
from app.certificates.commitments import RecordContent
from app.transparency import tree
from tests.app.certificates.making import DUMMIES, NONCE, RECORD, REQUEST_ID, drawing, records, request


def test_the_frozen_commitments() -> None:
    committed = commitments.commit(NONCE, hashlib.sha256(RECORD).digest())
    assert committed.hex() == "ed65cf7e5aaab20c8b660ea820d59e22549e0fb6857cebcffaae1f0a00df041c"
    assert request().commitment == "a5326e76f377b66c95c68914e9cbb405d967f5a7a987133d18c03444f3e88781"
    assert request().request_id == REQUEST_ID
    built = records()
    assert built.root == "99bace6bb03f9af52cc54e409e827bc55fe53caa0d8bcd01f11f4249fae6887e"
    assert built.padded_size == 16
    assert [each.index for each in built.openings] == [12]
    assert built.openings[0].nonce == NONCE.hex()


@pytest.mark.parametrize(
    ("n", "size"), [(1, 16), (15, 16), (16, 16), (17, 32), (32, 32), (33, 64), (1000, 1024)]
)
def test_only_a_size_class_shows(n: int, size: int) -> None:
    assert commitments.padded_size(n) == size


@given(st.integers(1, 40))
def test_every_record_is_under_the_root_and_nothing_else_shows(n: int) -> None:
    contents = [RecordContent.of(b"record %d" % i) for i in range(n)]
    numbers = count()
    built = commitments.build(contents, rng=lambda _: hashlib.sha256(b"%d" % next(numbers)).digest())
    assert len({each.nonce for each in built.openings}) == n
    for content, opened in zip(contents, built.openings, strict=True):
        assert opened.canonical_sha256 == content.canonical_sha256
        leaf = tree.leaf_hash(
            commitments.commit(bytes.fromhex(opened.nonce), bytes.fromhex(opened.canonical_sha256))
        )
        proof = [bytes.fromhex(each) for each in opened.proof]
        tree.verify_inclusion(opened.index, built.padded_size, leaf, proof, bytes.fromhex(built.root))


def test_two_requests_about_one_record_have_nothing_in_common() -> None:
    first, second = (commitments.build([RecordContent.of(RECORD)]) for _ in range(2))
    assert first.root != second.root
    assert first.openings[0].nonce != second.openings[0].nonce


def test_one_record_twice_is_committed_to_twice() -> None:
    built = commitments.build([RecordContent.of(RECORD)] * 2)
    assert len({each.index for each in built.openings}) == 2


def test_a_certificate_is_about_something() -> None:
    with pytest.raises(ValueError, match="at least one record"):
        commitments.build([])


def test_the_salt_hides_evidence() -> None:
    report = {"verdict": "V"}
    assert commitments.salted(report, rng=drawing(NONCE)) == (
        b'{"salt":"' + NONCE.hex().encode() + b'","verdict":"V"}'
    )
    assert commitments.salted(report) != commitments.salted(report)
    with pytest.raises(ValueError, match="drawn here"):
        commitments.salted({"salt": "chosen"})
    assert len(DUMMIES) == 15
