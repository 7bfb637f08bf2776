"""The checker on what stands beside a certificate: what honours it, whether it still stands, since when."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.certificates import check, publication, status
from app.certificates.check import REVOKED, STATUS_STALE, UNAUTHENTICATED, VALID, Report
from app.certificates.status import Revoked
from app.signing import canonical, statements
from app.transparency import tree
from tests.app.certificates.making import (
    CERTIFICATE_ID,
    ISSUER,
    LATER,
    LATER_ID,
    NEXT,
    STATED,
    STATUS_URL,
    Made,
    make,
    make_whole,
    publication_facts,
    sha256,
    signed_statement,
    standing,
    status_of,
    trust,
)
from tests.app.certificates.test_check import content, detail, packed, refused, run, state

SUPERSEDED = Revoked(certificate_id=CERTIFICATE_ID, reason="superseded", since=STATED)
ANOTHER = Revoked(certificate_id=LATER_ID, reason="resurfaced", since=STATED)


@pytest.fixture(scope="module")
def whole() -> Made:
    return make_whole()


def ended(report: Report, step: int, code: int) -> bool:
    """Return whether exactly this step failed, with this exit code, and nothing is claimed."""
    return (report.failed, report.exit_code, report.claim) == (step, code, {})


def test_one_that_is_whole_passes_every_step_but_that_of_time_stamps(whole: Made) -> None:
    report = run(whole.bundle)
    assert report.exit_code == VALID, report.to_text()
    assert [number for number in range(1, 13) if state(report, number) != "passed"] == [10]
    assert detail(report, 7) == (
        "this version was made live on 2026-11-21T10:02:00Z; "
        "entry 3 of 5 in issuer.example/log/2026, cosigned by W1, W2"
    )
    assert detail(report, 8) == (
        "not listed; valid as of 2026-11-30T06:00:00Z, next update 2026-12-07T06:00:00Z"
    )


def test_without_trust_neither_is_believed(whole: Made) -> None:
    report = check.check(whole.bundle, None, at=LATER)
    assert report.exit_code == UNAUTHENTICATED
    assert [state(report, number) for number in (7, 8)] == ["not checked"] * 2


# 7: publication


def test_a_later_version_of_the_line_honours_it_too() -> None:
    later = standing(replace(publication_facts(), **NEXT))
    report = run(make_whole(more=later).bundle)
    assert report.exit_code == VALID, report.to_text()
    assert "1 erasure epochs later, was made live" in detail(report, 7)


@pytest.mark.parametrize("member", sorted(check.PUBLISHED))
def test_whoever_names_a_list_of_revocations_shows_the_publication_too(whole: Made, member: str) -> None:
    report = run(packed(whole, {member: None}))
    assert refused(report, 7)
    assert member in detail(report, 7)
    alone = dict.fromkeys(check.PUBLISHED)
    assert refused(run(packed(whole, dict(alone))), 7)
    assert refused(run(make().bundle, trusted=trust(status=STATUS_URL)), 7), "the trust file may ask for it"


@pytest.mark.parametrize(
    "changes",
    [
        {"line": "another"},
        {"erasure_epoch": 41},
        {"manifest": NEXT["manifest"]},
        {**NEXT, "erasure_epoch": 42},
        {**NEXT, "erasure_epoch": 41},
    ],
    ids=["line", "epoch", "manifest", "another of the epoch", "an earlier one"],
)
def test_another_version_is_no_publication_of_this_one(changes: dict[str, Any]) -> None:
    report = run(make_whole(more=standing(replace(publication_facts(), **changes))).bundle)
    assert refused(report, 7)
    assert "not this one or a later one" in detail(report, 7)


def test_a_version_that_does_not_list_it_does_not_honour_it() -> None:
    said = replace(publication_facts(), honoured=[LATER_ID])
    report = run(make_whole(more=standing(said, honoured=[CERTIFICATE_ID])).bundle)
    assert refused(report, 7)
    assert "does not list" in detail(report, 7)


def test_a_version_that_dropped_what_was_honoured_before_is_refused() -> None:
    """The certificate's own version honoured two; the later one lists it, and not the other."""
    before, other = [LATER_ID, CERTIFICATE_ID], UUID("7d8a0d5e-52a5-4a55-8a1b-0f50a1f2c3d4")
    said = replace(publication_facts(), **{**NEXT, "honoured": [CERTIFICATE_ID, other, LATER_ID]})
    members = standing(said)
    report = run(make_whole(more=members, cumulative=before).bundle)
    assert refused(report, 7)


def test_another_certificates_continuity_shows_nothing(whole: Made) -> None:
    honoured = [CERTIFICATE_ID, LATER_ID]
    shown = publication.continuity(LATER_ID, size=1, honoured=honoured)
    assert refused(run(packed(whole, {check.CONTINUITY: canonical.encode(shown)})), 7)


def test_a_publication_by_strangers_or_not_in_the_log_is_refused(whole: Made) -> None:
    assert refused(run(make_whole(more=standing(seed=2)).bundle), 7)
    wrong = content(whole)[check.PROOF]
    assert refused(run(packed(whole, {check.PUBLICATION_PROOF: wrong})), 7)
    unlogged = run(packed(whole, {check.PUBLICATION_PROOF: None}), trusted=trust(log=None))
    assert unlogged.exit_code == VALID, "an issuer without a log states it all the same"
    assert detail(unlogged, 7).endswith("publication.tlog-proof not covered")


def test_the_proofs_are_those_of_the_log_for_every_size() -> None:
    """The checker's few lines on consistency against the tree's, all pairs up to 40."""
    leaves = [tree.leaf_hash(bytes([n])) for n in range(40)]
    for second in range(1, 41):
        new = tree.root(leaves[:second])
        for first in range(1, second + 1):
            old, proof = tree.root(leaves[:first]), tree.consistency_proof(leaves[:second], first)
            assert check.consistency_roots(first, second, old, proof) == (old, new)
            for wrong in (proof[:-1], [*proof, new]):
                assert wrong == proof or not shows(first, second, old, wrong, (old, new))
    for first, second in ((0, 1), (2, 1), (0, 0)):
        assert not shows(first, second, b"", [], (b"", b""))


def shows(first: int, second: int, old: bytes, proof: list[bytes], expected: tuple[bytes, bytes]) -> bool:
    try:
        return check.consistency_roots(first, second, old, proof) == expected
    except ValueError:
        return False


# 8: status


def test_a_listed_certificate_is_revoked_whichever_list_it_is_in(whole: Made) -> None:
    for listed in (status_of(SUPERSEDED), status_of(ANOTHER, SUPERSEDED)):
        report = run(packed(whole, {check.STATUS: listed}))
        assert ended(report, 8, REVOKED)
        assert detail(report, 8) == "revoked since 2026-11-30T06:00:00Z: superseded"
        assert ended(check.check(whole.bundle, trust(), status=listed, at=LATER), 8, REVOKED)
    fresh, old = status_of(at=LATER), status_of(SUPERSEDED, at=STATED)
    both = check.check(packed(whole, {check.STATUS: old}), trust(), status=fresh, at=LATER)
    assert ended(both, 8, REVOKED), "nothing that is added turns a refusal into an acceptance"
    assert run(packed(whole, {check.STATUS: status_of(ANOTHER)})).exit_code == VALID


def test_a_status_is_fresh_or_worth_nothing(whole: Made) -> None:
    week = timedelta(days=7)
    assert run(whole.bundle, at=STATED + week - timedelta(seconds=1)).exit_code == VALID
    late = STATED + week
    report = run(whole.bundle, at=late)
    assert ended(report, 8, STATUS_STALE)
    assert f"get one from {STATUS_URL} for --status" in detail(report, 8)
    newer = check.check(whole.bundle, trust(), status=status_of(at=late), at=late)
    assert newer.exit_code == VALID
    assert "valid as of 2026-12-07T06:00:00Z" in detail(newer, 8)
    assert ended(run(packed(whole, {check.STATUS: None})), 8, STATUS_STALE)
    assert ended(
        run(make(more=without(check.STATUS)).bundle, trusted=trust(status=STATUS_URL)), 8, STATUS_STALE
    )


def test_whoever_never_promised_a_list_is_not_asked_for_one() -> None:
    report = run(make().bundle)
    assert (report.exit_code, state(report, 8)) == (VALID, "not checked")


def test_a_list_of_another_issuer_by_strangers_or_of_times_to_come_is_refused(whole: Made) -> None:
    for wrong in (
        status_of(issuer="https://another.example"),
        status_of(seed=2),
        status_of(at=LATER + timedelta(hours=1)),
        signed_statement(publication.build(publication_facts())),
        b"{}",
    ):
        assert refused(run(packed(whole, {check.STATUS: wrong})), 8)


def test_no_list_may_promise_for_long(whole: Made) -> None:
    """A key that was stolen after its end could else vouch for ever, dated back."""
    payload = statements.build(
        status.KIND, name=ISSUER, sha256=status.subject(ISSUER),
        predicate={"producedOn": "2026-11-30T06:00:00Z", "nextUpdate": "2027-11-30T06:00:00Z", "revoked": []},
    )  # fmt: skip
    assert refused(run(packed(whole, {check.STATUS: signed_statement(payload)})), 8)


def test_a_list_by_a_key_that_has_ended_is_refused(whole: Made) -> None:
    trusted = trust()
    for key in trusted["keys"]:
        key["notAfter"] = "2026-11-29T00:00:00Z"
    assert refused(run(whole.bundle, trusted=trusted), 8)


# 9: keys that somebody else may have had


@pytest.mark.parametrize(
    ("since", "logged", "stands"),
    [
        ("2026-11-21T10:00:00Z", True, True),
        ("2026-11-21T09:59:59Z", True, False),
        ("2026-11-21T10:00:00Z", False, False),
    ],
    ids=["witnessed before", "witnessed after", "nobody saw it"],
)
def test_a_distrusted_key_counts_for_what_others_saw_before(
    since: str, *, logged: bool, stands: bool
) -> None:
    trusted = trust() if logged else trust(log=None)
    trusted["keys"][0]["notTrustedAfter"] = since
    report = run(make().bundle, trusted=trusted)
    assert (report.exit_code == VALID) is stands
    assert stands or refused(report, 9)


# Every byte


@pytest.mark.parametrize(
    ("member", "step"),
    [(check.PUBLICATION, 7), (check.PUBLICATION_PROOF, 7), (check.CONTINUITY, 7), (check.STATUS, 8)],
)
def test_every_changed_byte_is_refused(whole: Made, member: str, step: int) -> None:
    _, _, keys = check.read_trust(trust())
    _, _, members = check.read_bundle(whole.bundle)
    said, latest = check.loads(whole.payload), check.instant(LATER)
    data, accepted = members[member], []
    for position in range(0, len(data), 1 if member == check.CONTINUITY else 7):
        changed = (
            data[:position] + bytes([data[position] ^ (0x01, 0x20)[position % 2]]) + data[position + 1 :]
        )
        mutated = {**members, member: changed}
        try:
            if step == 7:
                check.check_publication(said, mutated, keys, trust(), latest)
            else:
                check.check_status(said, mutated, keys, trust(), None, latest)
            accepted.append(position)
        except Exception:  # noqa: BLE001  hostile bytes raise a dozen kinds; `attempt` catches them all
            continue
    assert accepted == []


def without(*names: str) -> dict[str, bytes]:
    """Return what stands beside a certificate, less these."""
    return {name: each for name, each in standing().items() if name not in names}


def test_the_statements_say_what_the_format_says() -> None:
    said = check.loads(publication.build(publication_facts()))["predicate"]
    assert said["previous"] == [
        {"digest": {"sha256": sha256(b"previous")}, "state": "quarantined", "role": "served",
         "destroyBy": "2026-12-05"}
    ]  # fmt: skip
    assert said["reaudit"] == {"unit": "sentinel", "checked": 59, "failed": 0}
    assert said["replicas"]["count"] == 1
    listed = check.loads(status.build(ISSUER, status.listed([SUPERSEDED, ANOTHER]), produced_at=STATED))
    assert [each["certificateId"] for each in listed["predicate"]["revoked"]] == [
        f"urn:uuid:{LATER_ID}", f"urn:uuid:{CERTIFICATE_ID}"
    ], "by id: the list shows no order"  # fmt: skip
    assert listed["subject"] == [{"name": ISSUER, "digest": {"sha256": sha256(ISSUER.encode())}}]
