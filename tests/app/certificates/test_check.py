"""The checker: what it accepts, the step at which it refuses anything else, and that it stands alone."""

import ast
import copy
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.certificates import bundle, check, statement
from app.certificates.check import INVALID, UNAUTHENTICATED, UNREADABLE, VALID, Report
from app.registry import manifest as manifests
from app.signing import canonical, envelope
from app.transparency import policies, tree
from app.transparency.notes import WITNESS_KIND, Note
from app.transparency.proofs import Proof
from tests.app.certificates.making import (
    CERTIFICATE_ID,
    COSIGNERS,
    ISSUED,
    LATER,
    REQUEST_ID,
    SHARDED,
    TENSOR_ROOT,
    WHOLE,
    WITNESSES,
    Made,
    facts,
    lay_out,
    logged,
    make,
    manifest,
    proof_of,
    safetensors,
    sha256,
    sign,
    signers,
    trust,
)
from tests.app.transparency.logs import LOG_KEY, Dishonest, private, verifier

OTHER = verifier("witness.example/W3", 23, WITNESS_KIND)
LINES_MAX = 670
"""The house's 400 are for what one reads in a sitting; the checker's docstring says why it has more."""
WHITE = b" \t\r\n"


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


def run(data: bytes, *, trusted: Any = None, model: Path | None = None, at: datetime = LATER) -> Report:
    return check.check(data, trust() if trusted is None else trusted, model=model, at=at)


def state(report: Report, number: int) -> str:
    return str(report.steps[number - 1]["state"])


def detail(report: Report, number: int) -> str:
    return str(report.steps[number - 1]["detail"])


def refused(report: Report, step: int) -> bool:
    """Return whether exactly this step failed, with its exit code, and nothing is claimed."""
    # The tenth is done before the ninth, which judges by it.
    later = {each["state"] for each in report.steps[step:] if (step, each["number"]) != (9, 10)}
    return (
        report.failed == step
        and state(report, step) == "failed"
        and later <= {"not checked"}
        and report.exit_code == (UNREADABLE if step <= 2 else INVALID)
        and report.claim == {}
    )


# What it says of a good one


def test_a_certificate_is_valid_and_every_step_says_how_it_ended(made: Made, tmp_path: Path) -> None:
    report = run(made.bundle, model=lay_out(tmp_path, WHOLE))
    assert report.exit_code == VALID
    assert [(each["number"], each["name"]) for each in report.steps] == list(
        enumerate(
            ["trust", "bundle", "signatures", "statement", "subjects", "log", "publication", "status", "time",
             "timestamps", "opening", "assurance"],
            start=1,
        )
    )  # fmt: skip
    assert [number for number in range(1, 13) if state(report, number) != "passed"] == [7, 8, 10]
    assert detail(report, 6) == "entry 2 of 5 in issuer.example/log/2026, cosigned by W1, W2"
    assert detail(report, 9).endswith("(seen by W1, W2 until 2026-11-21T10:00:07Z)")


def test_it_prints_the_sentence_its_terms_and_its_limits(made: Made) -> None:
    text = run(made.bundle).to_text()
    assert check.LEVELS["verified"][1] in text
    assert "This does not prove that no influence remains." in text
    for code in (*statement.ALWAYS, "L-COHORT"):
        assert f"{code}: {check.LIMITATIONS[code]}" in text
    assert f"D2 = version {sha256(made.manifest)}" in text
    assert "residual_ratio_upper" in text
    assert "not checked: this issuer keeps no list of revocations" in text
    assert "HOWTO-VERIFY.md and model.sig not covered" in text
    assert text.endswith("Result: valid (0)")


def test_the_claim_is_there_for_machines(made: Made) -> None:
    claim = json.loads(json.dumps(vars(run(made.bundle))))["claim"]
    assert claim["certificate_id"] == statement.urn(CERTIFICATE_ID)
    assert claim["pae_sha256"] == envelope.pae_sha256(made.payload)
    assert claim["level"] == "verified"
    assert list(claim["limitations"]) == [*statement.ALWAYS, "L-COHORT"]


def test_without_the_opening_it_says_so_and_stands() -> None:
    report = run(make(with_opening=False).bundle)
    assert (report.exit_code, state(report, 11)) == (VALID, "not checked")


def test_without_trust_nobody_is_authenticated(made: Made) -> None:
    report = check.check(made.bundle, None, at=LATER)
    assert report.exit_code == UNAUTHENTICATED
    assert [state(report, number) for number in (1, 3)] == ["not checked"] * 2
    assert "not authenticated" in report.to_text()


def test_a_tensor_root_does_not_change_with_sharding(tmp_path: Path) -> None:
    report = run(make(manifest=manifest(SHARDED)).bundle, model=lay_out(tmp_path, SHARDED))
    assert report.exit_code == VALID
    assert "tensor root" in detail(report, 5)


def test_the_frozen_tensor_root_is_that_of_the_store_too() -> None:
    assert manifests.tensor_root([io.BytesIO(WHOLE["model.safetensors"])]) == TENSOR_ROOT
    tensors = check.read_tensors(memoryview(WHOLE["model.safetensors"]))
    leaves = [check.sha256(b"\0", tensors[name]) for name in sorted(tensors)]
    assert check.merkle_root(leaves).hex() == TENSOR_ROOT


# What it refuses, and at which step


def test_another_key_is_refused_at_the_signatures(made: Made) -> None:
    report = run(made.bundle, trusted=trust(seed=2))
    assert refused(report, 3)
    assert "no signature by a trusted key: ecdsa-p256, ed25519" in detail(report, 3)


def test_a_forgery_that_borrows_the_key_ids_is_refused() -> None:
    forged = json.loads(make(seed=2).envelope)
    for entry, signer in zip(forged["signatures"], signers(1), strict=True):
        entry["keyid"] = signer.keyid
    assert refused(run(packed(make(), {"certificate.dsse.json": canonical.encode(forged)})), 3)


def test_each_of_the_two_signatures_is_needed(made: Made) -> None:
    for only in range(2):
        signed = json.loads(made.envelope)
        signed["signatures"] = [signed["signatures"][only]]
        report = run(packed(made, {"certificate.dsse.json": canonical.encode(signed)}))
        assert refused(report, 3)


def test_signatures_of_strangers_count_for_nothing_and_do_no_harm(made: Made) -> None:
    signed = json.loads(made.envelope)
    stranger = {"keyid": "0" * 64, "sig": "AAAA"}
    signed["signatures"] = [stranger, *signed["signatures"]]
    sigstore = canonical.encode(envelope.sigstore_bundle(signed, signers()[1].keyid))
    data = packed(
        made, {"certificate.dsse.json": canonical.encode(signed), "certificate.sigstore.json": sigstore}
    )
    assert run(data).exit_code == VALID


def test_another_issuers_certificate_is_refused_at_the_statement(made: Made) -> None:
    report = run(made.bundle, trusted=trust(issuer="https://another.example"))
    assert refused(report, 4)


def test_a_certificate_for_another_model_is_refused_at_the_subjects(made: Made, tmp_path: Path) -> None:
    assert refused(run(packed(made, {"manifest.json": manifest(SHARDED)})), 5)
    other = {**WHOLE, "model.safetensors": safetensors(a_w=("F32", [4], b"\x01" + bytes(15)))}
    assert refused(run(made.bundle, model=lay_out(tmp_path / "other", other)), 5)
    assert refused(run(made.bundle, model=lay_out(tmp_path / "more", {**WHOLE, "x.py": b""})), 5)
    assert refused(run(made.bundle, model=lay_out(tmp_path / "less", {"config.json": b"{}"})), 5)
    assert refused(run(made.bundle, model=tmp_path / "nowhere"), 5)


def test_a_wrong_tensor_root_is_refused_with_the_model_at_hand(tmp_path: Path) -> None:
    wrong = make(tensor_root=sha256(b"wrong")).bundle
    assert run(wrong).exit_code == VALID, "without the model nobody can see it"
    report = run(wrong, model=lay_out(tmp_path, WHOLE))
    assert refused(report, 5)
    assert "tensors" in detail(report, 5)


def test_layers_other_than_the_subjects_are_refused() -> None:
    said = statement.build(facts())
    said["subject"] = said["subject"][:2]
    assert refused(run(sign(said, manifest(WHOLE)).bundle), 5)


@pytest.mark.parametrize("drop", range(3, 400, 40))
def test_a_truncated_bundle_is_refused_at_the_zip(made: Made, drop: int) -> None:
    assert refused(run(made.bundle[:-drop]), 2)
    assert refused(run(made.bundle[: len(made.bundle) * drop // 400]), 2)


@pytest.mark.parametrize("member", sorted(check.REQUIRED))
def test_a_missing_member_is_named(made: Made, member: str) -> None:
    report = run(packed(made, {member: None}))
    assert refused(report, 2)
    assert member in detail(report, 2)


def test_unknown_doubled_compressed_and_huge_members_are_refused(made: Made) -> None:
    assert refused(run(packed(made, {"notes.json": b"{}"})), 2)
    assert refused(run(packed(made, {"../manifest.json": b"{}"})), 2)
    assert refused(run(packed(made, {"opening.json": bytes(check.MEMBER_BYTES_MAX + 1)})), 2)
    assert refused(run(packed(made, {}, compression=zipfile.ZIP_DEFLATED)), 2)
    assert refused(run(bytes(check.BUNDLE_BYTES_MAX + 1)), 2)
    doubled = io.BytesIO(made.bundle)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(doubled, "a") as archive:
        archive.writestr("manifest.json", b"{}")
    assert refused(run(doubled.getvalue()), 2)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_bundle_is_unreadable(data: bytes) -> None:
    assert refused(run(data), 2)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1"),
        ("predicateType", "https://lethe.example/attestation/publication/v1"),
        ("predicate.remark", "x"),
        ("predicate.records", None),
        ("predicate.certificateId", "urn:uuid:01890a5d-ac96-774b-bcce-b302099a8057"),
        ("predicate.assurance.limitations", []),
        ("predicate.assurance.limitations", ["L-OUTPUT", "L-OUTPUT"]),
        ("predicate.assurance.limitations", ["L-NONE"]),
        ("predicate.assurance.level", "exact"),
        ("predicate.assurance.level", "certified"),
        ("predicate.assurance.level", "failed"),
        ("predicate.verification.verdict", "I"),
        ("predicate.verification.verdict", "F"),
        ("predicate.verification.bounds", []),
        ("predicate.method.class", "magic"),
        ("predicate.model.erasureEpoch", True),
        ("predicate.model.erasureEpoch", "42"),
        ("predicate.issuer.id", "https://another.example"),
    ],
)
def test_an_issuer_with_the_right_keys_still_may_not_say_this(place: str, value: object) -> None:
    said = copy.deepcopy(statement.build(facts()))
    put(said, place, value)
    assert refused(run(sign(said, manifest(WHOLE)).bundle), 4)


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"a":1.0}', '{"a":NaN}', '{"a":9007199254740992}', '{"a":1e3}', "[" * 9999]
)
def test_json_is_strict(text: str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        check.loads(text.encode())


def test_dates_and_keys_are_judged(made: Made) -> None:
    assert refused(run(made.bundle, at=ISSUED - timedelta(hours=1)), 9)
    assert run(made.bundle, at=ISSUED - timedelta(minutes=4)).exit_code == VALID, "two clocks differ a little"
    assert run(made.bundle, at=LATER.replace(tzinfo=None)).exit_code == VALID, "a naive time is UTC"
    for window in ({"notBefore": "2026-11-21T10:00:01Z"}, {"notAfter": "2026-11-21T09:59:59Z"}):
        for number in range(2):
            trusted = trust()
            trusted["keys"][number].update(window)
            assert refused(run(made.bundle, trusted=trusted), 9)
    trusted = trust()
    trusted["keys"][0].update(notBefore="2026-11-21T10:00:00Z", notAfter="2026-11-21T10:00:07Z")
    assert run(made.bundle, trusted=trusted).exit_code == VALID
    trusted["keys"][0].update(notAfter="2026-11-21T10:00:00Z")
    assert refused(run(made.bundle, trusted=trusted), 9), "witnesses saw it only after the key had ended"
    trusted["log"] = None
    assert run(made.bundle, trusted=trusted).exit_code == VALID, "the issuer's own clock says in time"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        [],
        {**trust(), "witnesses": 2},
        {**trust(), "keys": [{}]},
        {**trust(), "keys": [{**trust()["keys"][0], "keyid": "0" * 64}]},
        {**trust(), "keys": [{**trust()["keys"][0], "pem": "none"}]},
        {**trust(), "keys": [{**trust()["keys"][0], "algorithm": "ecdsa-p256"}]},
    ],
)
def test_a_trust_file_that_cannot_be_used_is_refused_first(made: Made, wrong: Any) -> None:
    assert refused(run(made.bundle, trusted=wrong), 1)


def test_trusting_no_key_is_not_the_same_as_asking_for_none(made: Made) -> None:
    assert refused(run(made.bundle, trusted=trust(keys=[])), 3)
    for only in range(2):
        assert refused(run(made.bundle, trusted=trust(keys=[trust()["keys"][only]])), 3)


# The log


def test_as_soon_as_a_log_is_trusted_its_proofs_are_demanded(made: Made) -> None:
    report = run(packed(made, {check.PROOF: None}))
    assert refused(report, 6)
    assert detail(report, 6).startswith("not logged: ")
    assert "certificate.tlog-proof" in detail(report, 6)


def test_where_no_log_is_trusted_none_is_asked(made: Made) -> None:
    report = run(packed(made, {check.PROOF: None}), trusted=trust(log=None))
    assert (report.exit_code, detail(report, 6)) == (VALID, "this issuer keeps no log")
    report = run(packed(made, {check.PROOF: b"anything"}), trusted=trust(log=None))
    assert (report.exit_code, state(report, 6)) == (VALID, "not checked")
    assert detail(report, 6) == "this issuer keeps no log (certificate.tlog-proof not covered)"
    assert check.check(made.bundle, None, at=LATER).steps[5]["state"] == "not checked"


def in_log(made: Made, log: Dishonest, **changes: Any) -> Report:
    """Check the certificate with the proof that this log gives for its third entry."""
    return run(packed(made, {check.PROOF: proof_of(log)}), **changes)


def test_a_proof_of_another_certificate_or_by_another_log_is_refused(made: Made) -> None:
    subject = sha256(made.manifest)
    identity = envelope.pae_sha256(made.payload)
    log = logged(identity, subject)
    assert in_log(made, log).exit_code == VALID
    assert refused(in_log(made, logged("0" * 64, subject)), 6)
    assert refused(in_log(made, logged(identity, "0" * 64)), 6)
    assert refused(run(packed(made, {check.PROOF: proof_of(log, index=1)})), 6)
    stranger = logged(identity, subject)
    stranger.seed = 10
    report = in_log(made, stranger)
    assert refused(report, 6)
    assert "no trusted log has signed" in detail(report, 6)


def test_a_rewritten_log_cannot_take_over_an_old_proof(made: Made) -> None:
    """The proof holds under the root it came with; the root of any other history does not fit it."""
    log = logged(envelope.pae_sha256(made.payload), sha256(made.manifest))
    path = Proof.parse(made.proof).hashes
    for entries in (
        [b"forked", *log.entries[1:]],
        log.entries[:3],
        [*log.entries[:2], log.entries[3], log.entries[2], log.entries[4]],
        [*log.entries[:2], b"edited", *log.entries[3:]],
    ):
        note = Dishonest(entries=entries).note(*COSIGNERS)
        other = Proof(index=2, hashes=path, checkpoint=note).encode()
        assert refused(run(packed(made, {check.PROOF: other})), 6)


@pytest.mark.parametrize(
    ("lines", "stands"),
    [
        (["quorum none"], True),
        ([*WITNESSES, "quorum W2"], True),
        ([*WITNESSES, "group G any W1 W2", "quorum G"], True),
        ([*WITNESSES, "group G 2 W1 W2", "quorum G"], True),
        ([*(f"{line} https://w.example/" for line in WITNESSES), "# a remark", "", "quorum W1"], True),
        ([*WITNESSES, f"witness W3 {OTHER}", "group G 2 W1 W2 W3", "quorum G"], True),
        ([*WITNESSES, f"witness W3 {OTHER}", "group G all W1 W2 W3", "quorum G"], False),
        ([f"witness W3 {OTHER}", "quorum W3"], False),
        ([*WITNESSES, f"witness W3 {OTHER}", "group A 2 W1 W3", "group G any A W2", "quorum G"], True),
        ([*WITNESSES, f"witness W3 {OTHER}", "group A 2 W1 W3", "group G all A W2", "quorum G"], False),
    ],
)
def test_the_policy_decides_how_many_witnesses_are_enough(made: Made, lines: list[str], stands: bool) -> None:  # noqa: FBT001  the case's answer
    text = "\n".join([f"log {LOG_KEY}", *lines, ""])
    report = run(made.bundle, trusted=trust(log={"policy": text}))
    assert (report.exit_code == VALID) == stands
    assert stands or refused(report, 6)
    assert policies.Policy.parse(text).satisfied({"W1", "W2"}) == stands


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["quorum none", "quorum none"],
        ["quorum W1"],
        ["quorum W1", *WITNESSES],
        [*WITNESSES, "group G 2 W1 W1", "quorum G"],
        [*WITNESSES, "group G 3 W1 W2", "quorum G"],
        [*WITNESSES, "group G 0 W1 W2", "quorum G"],
        [*WITNESSES, "group G any", "quorum none"],
        [*WITNESSES, "group G any none W1", "quorum G"],
        [*WITNESSES, "group G any H", "group H any W1", "quorum G"],
        [*WITNESSES, "group A any W1", "group B any W1", "group G all A B", "quorum G"],
        [*WITNESSES, "group W1 any W2", "quorum W1"],
        [*WITNESSES, "group none any W2", "quorum none"],
        [*WITNESSES, WITNESSES[0].replace("W1", "W3", 1), "group G 2 W1 W3", "quorum G"],
        [f"witness W3 {OTHER}".replace("witness.", "Witness."), "quorum none"],
        [f"witness W3 {LOG_KEY}", "quorum none"],
        [f"log {OTHER}", "quorum none"],
        [f"log {LOG_KEY}", "quorum none"],
        ["demand everything", "quorum none"],
        ["witness W3", "quorum none"],
        ["quorum"],
    ],
)
def test_a_policy_that_is_not_understood_refuses_the_trust_file(made: Made, lines: list[str]) -> None:
    text = "\n".join([f"log {LOG_KEY}", *lines, ""])
    assert refused(run(made.bundle, trusted=trust(log={"policy": text})), 1)
    with pytest.raises(policies.PolicyRefused):
        policies.Policy.parse(text)


def test_witnesses_times_are_judged(made: Made) -> None:
    """Seen before it was issued, or in times to come: one of the two clocks lies."""
    log = logged(envelope.pae_sha256(made.payload), sha256(made.manifest))
    for at, stands in (
        (ISSUED - timedelta(minutes=4), True),
        (ISSUED - timedelta(hours=1), False),
        (LATER - timedelta(minutes=1), True),
        (LATER + timedelta(hours=1), False),
    ):
        cosigners = [(key, seed, int(at.timestamp())) for key, seed, _ in COSIGNERS]
        path = tree.inclusion_proof(log.leaves, 2)
        proof = Proof(index=2, hashes=tuple(path), checkpoint=log.note(*cosigners)).encode()
        report = run(packed(made, {check.PROOF: proof}))
        assert (report.exit_code == VALID) == stands
        assert stands or refused(report, 9)


def test_signatures_of_unknown_witnesses_count_for_nothing(made: Made) -> None:
    line = OTHER.signature(Note.parse(Proof.parse(made.proof).checkpoint).text, private(23), seconds=0)
    assert run(packed(made, {check.PROOF: made.proof + str(line).encode()})).exit_code == VALID
    broken = made.proof.replace(b"witness.example/W1 ", b"witness.example/W9 ")
    assert refused(run(packed(made, {check.PROOF: broken})), 6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"index 2", b"index 02"),
        (b"index 2", b"index +2"),
        (b"index 2", b"extra AAAA\nindex 2"),
        (b"\n5\n", b"\n05\n"),
        (b"\n5\n", b"\n5\n\n"),
        (b"\xe2\x80\x94 ", b"- "),
        (b"tlog-proof@v1", b"tlog-proof@v2"),
        (b"=\n\n", b"=\nan extension\n\n"),
    ],
)
def test_a_proof_has_one_form(made: Made, old: bytes, new: bytes) -> None:
    assert old in made.proof
    head, middle, tail = made.proof.rpartition(old)
    assert refused(run(packed(made, {check.PROOF: head + middle.replace(old, new) + tail})), 6)
    assert refused(run(packed(made, {check.PROOF: made.proof[:-1]})), 6)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("certificateId", "urn:uuid:00000000-0000-4000-8000-000000000000"),
        ("paeSha256", "0" * 64),
        ("request.id", REQUEST_ID + "x"),
        ("request.nonce", "0" * 64),
        ("records.0.canonicalSha256", "0" * 64),
        ("records.0.nonce", "0" * 64),
        ("records.0.index", 3),
        ("records.0.index", 16),
        ("records.0.proof", []),
        ("records.0.proof", ["0" * 64] * 5),
        ("version", "lethe/opening/2"),
        ("remark", "x"),
    ],
)
def test_an_opening_that_does_not_open_is_refused(made: Made, place: str, value: object) -> None:
    opened = copy.deepcopy(made.opening)
    assert opened is not None
    put(opened, place, value)
    assert refused(run(packed(made, {"opening.json": canonical.encode(opened)})), 11)


def test_a_record_is_opened_once(made: Made) -> None:
    assert made.opening is not None
    twice = {**made.opening, "records": made.opening["records"] * 2}
    assert refused(run(packed(made, {"opening.json": canonical.encode(twice)})), 11)


# Every byte


def changed(data: bytes, *, every: int = 1, bits: tuple[int, ...] | None = None) -> Iterator[bytes]:
    """Yield the data with one byte replaced, by turns in its lowest bit and in its case."""
    for position in range(0, len(data), every):
        for bit in bits or ((0x01, 0x20)[position % 2],):
            yield data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]


ONCE, THOROUGHLY = "once", "thoroughly"
DEPTHS = [ONCE, pytest.param(THOROUGHLY, marks=pytest.mark.slow)]
ALL_BITS = tuple(1 << i for i in range(8))


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_changed_byte_of_the_envelope_is_refused(made: Made, depth: str) -> None:
    """The signature step refuses, whatever the change means; thoroughly: each bit, and each byte left out."""
    _, _, keys = check.read_trust(trust())
    _, _, members = check.read_bundle(made.bundle)
    whole = made.envelope
    assert check.check_signatures(members, keys)[0] == "passed"
    mutants = list(changed(whole))
    if depth == THOROUGHLY:
        mutants = [*changed(whole, bits=ALL_BITS), *(whole[:i] + whole[i + 1 :] for i in range(len(whole)))]
    accepted = [each for each in mutants if not refuses(check.check_signatures, members, each, keys)]
    assert accepted == []


def test_every_changed_byte_of_the_envelope_ends_the_whole_check_at_the_signatures(made: Made) -> None:
    for mutant in changed(made.envelope, every=97):
        assert refused(run(packed(made, {"certificate.dsse.json": mutant})), 3)


def test_white_space_is_a_change_too(made: Made) -> None:
    for member in ("certificate.dsse.json", "certificate.sigstore.json"):
        for white in WHITE:
            spaced = content(made)[member].replace(b",", b"," + bytes([white]), 1)
            assert refused(run(packed(made, {member: spaced})), 3)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("member", "step"),
    [
        ("certificate.sigstore.json", 3),
        ("manifest.json", 5),
        ("certificate.tlog-proof", 6),
        ("opening.json", 11),
    ],
)
def test_every_changed_byte_of_the_other_members_is_refused(
    made: Made, member: str, step: int, depth: str
) -> None:
    _, _, keys = check.read_trust(trust())
    _, _, members = check.read_bundle(made.bundle)
    said, identity = json.loads(made.payload), envelope.pae_sha256(made.payload)
    # Behind two signatures, so each try is slow: every ninth byte, unless thoroughly.
    every = 9 if step == 3 and depth == ONCE else 1

    def judge(mutated: dict[str, bytes], _: object) -> object:
        if step == 3:
            return check.check_signatures(mutated, keys)
        if step == 5:
            return check.check_subjects(said, mutated, None)
        if step == 6:
            return check.check_log(said, identity, mutated, trust())
        return check.check_opening(said, identity, mutated)

    mutants = changed(
        members[member], every=every, bits=ALL_BITS if step != 3 and depth == THOROUGHLY else None
    )
    accepted = [each for each in mutants if not refuses(judge, members, each, keys, member)]
    assert accepted == []


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_changed_byte_of_the_zip_is_refused_or_changes_no_member(made: Made, depth: str) -> None:
    """Dates and attributes mean nothing; what a member holds has a CRC, and what is required must be there.

    A changed directory may lose the opening: the checker then prints that the copy holds none.
    """
    whole = content(made)
    for mutant in changed(made.bundle, every=1 if depth == THOROUGHLY else 7):
        try:
            _, _, members = check.read_bundle(mutant)
        except Exception:  # noqa: BLE001  hostile bytes raise a dozen kinds; `attempt` catches them all
            continue
        assert set(members) >= check.REQUIRED
        assert members.items() <= whole.items()


def refuses(
    judge: Callable[..., object],
    members: dict[str, bytes],
    mutant: bytes,
    keys: object,
    member: str = "certificate.dsse.json",
) -> bool:
    try:
        judge({**members, member: mutant}, keys)
    except Exception:  # noqa: BLE001  hostile bytes raise a dozen kinds; `attempt` catches them all
        return True
    return False


# One file, alone


def test_the_checker_is_one_short_file_that_imports_nothing_of_ours() -> None:
    source = Path(check.__file__).read_text()
    assert len(source.splitlines()) <= LINES_MAX
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    # The last for time stamps alone, where it is installed; without it step 10 says how to check them.
    assert imported - sys.stdlib_module_names == {"cryptography", "rfc3161_client"}


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if "--at" not in arguments:
        arguments = (*arguments, "--at", LATER.isoformat())
    words = [sys.executable, "-I", "check.py", *arguments]
    return subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False)


@pytest.fixture
def alone(made: Made, tmp_path: Path) -> Path:
    """Return a directory with the checker, a bundle, a trust file and a model, and nothing else."""
    shutil.copy(check.__file__, tmp_path / "check.py")
    (tmp_path / "bundle.zip").write_bytes(made.bundle)
    (tmp_path / "trust.json").write_text(json.dumps(trust()))
    lay_out(tmp_path / "model", WHOLE)
    return tmp_path


def test_it_runs_in_an_empty_directory(alone: Path) -> None:
    done = command(alone, "bundle.zip", "--trust", "trust.json", "--model", "model")
    assert (done.returncode, done.stderr) == (VALID, "")
    assert "Level verified: P ran on D1" in done.stdout
    assert {path.name for path in alone.iterdir()} == {"check.py", "bundle.zip", "trust.json", "model"}


def test_its_exit_codes(alone: Path, made: Made) -> None:
    assert command(alone, "bundle.zip").returncode == UNAUTHENTICATED
    (alone / "cut.zip").write_bytes(made.bundle[:-10])
    assert command(alone, "cut.zip", "--trust", "trust.json").returncode == UNREADABLE
    assert command(alone, "none.zip", "--trust", "trust.json").returncode == UNREADABLE
    (alone / "trust.json").write_text(json.dumps(trust(seed=2)))
    done = command(alone, "bundle.zip", "--trust", "trust.json", "--json")
    assert done.returncode == INVALID
    assert json.loads(done.stdout)["failed"] == 3


def test_it_checks_as_of_a_time(alone: Path) -> None:
    early = command(alone, "bundle.zip", "--trust", "trust.json", "--at", "2026-11-20")
    assert (early.returncode, " 9 time" in early.stdout) == (INVALID, True)


def test_the_terminal_is_told_nothing_it_would_obey() -> None:
    said = statement.build(facts())
    said["predicate"]["model"]["line"] = "support\u202e\u009b31m"
    assert not set("\u202e\u009b") & set(run(sign(said, manifest(WHOLE)).bundle).to_text())


def put(document: dict[str, Any], place: str, value: object) -> None:
    """Set what stands at a dotted place; None takes it away."""
    *path, last = place.split(".")
    part: Any = document
    for name in path:
        part = part[int(name)] if isinstance(part, list) else part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value


def content(made: Made) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(made.bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(made: Made, changes: dict[str, bytes | None], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return the bundle with members replaced, added, or (None) left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in {**content(made), **changes}.items():
            if data is not None:
                archive.writestr(zipfile.ZipInfo(name, bundle.DATE), data, compression)
    return buffer.getvalue()


def test_now_is_the_default(made: Made) -> None:
    assert (check.check(made.bundle, trust()).failed == 9) == (datetime.now(UTC) < ISSUED - check.SKEW_MAX)
