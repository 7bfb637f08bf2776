#!/usr/bin/env python3
"""Check an erasure certificate offline. One file: Python 3.11 and `cryptography`.

    python check.py FILE.zip --trust trust.json [--model DIR] [--at TIME] [--json]

1 trust: keys from elsewhere, never from the zip. 2 bundle: exact names, bounded, nothing on disk.
3 signatures: PAE rebuilt, a trusted one of each algorithm. 4 statement: types, schema, ceiling of the
level. 5 subjects: manifest, its layers, with --model the files and the tensor root. 6 log.
7 publication. 8 status. 9 time: both keys valid. 10 timestamps and replays. 11 opening: commitments
and proofs. 12 assurance: what this says, and what it does not.

Exit: 0 valid, 1 invalid, 2 unreadable, 3 consistent but nobody authenticated (no --trust), 4 status
stale or missing, 5 revoked. The answer is worth as much as this file and the trust file are: get both
from somewhere else than the bundle.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

VALID, INVALID, UNREADABLE, UNAUTHENTICATED, STATUS_STALE, REVOKED = range(6)
RESULTS = "valid", "invalid", "unreadable", "consistent, issuer not authenticated", "status stale", "revoked"
REQUIRED = CERTIFICATE, SIGSTORE, MANIFEST = "certificate.dsse.json", "certificate.sigstore.json", "manifest.json"
OPTIONAL = HOWTO, OPENING = "HOWTO-VERIFY.md", "opening.json"
MEMBER_BYTES_MAX, BUNDLE_BYTES_MAX = 16 << 20, 64 << 20
HEADER_BYTES_MAX = 100_000_000  # of a safetensors file; the format's own limit
SKEW_MAX = timedelta(minutes=5)  # by how much the issuer's clock may be ahead of ours
PAYLOAD_TYPE = "application/vnd.in-toto+json"
PREDICATE_TYPE = "https://lethe.example/attestation/erasure-certificate/v1"
SIGSTORE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
ED25519, P256 = "ed25519", "ecdsa-p256"
# fmt: off
LEVELS = {  # the classes of method that may claim it, the verdicts it may stand on, what it says
    "exact": ("exact", "VNIF",  # rests on the process; among perfect erasures chance gives one in twenty an F
        "D2 is the output of P on R, which excludes the committed records."),
    "certified": ("exact bounded", "VNI",
        "The stated bound holds for D2 if the listed assumptions hold."),
    "verified": ("exact bounded approximate", "V",
        "P ran on D1 against the committed records and gave D2; the pre-registered tests passed with the stated"
        " bounds. This does not prove that no influence remains."),
    "executed": ("exact bounded approximate", "N",
        "P ran; nothing specific to the records was measurable before or after, at the stated sensitivity."),
    "inconclusive": ("exact bounded approximate", "VNI",
        "P ran; no residue was seen, but the tests could not bound it."),
}
LIMITATIONS = {
    "L-OUTPUT": "Only the listed attacks and forms were tested. Passing does not prove that no influence remains.",
    "L-SELF-RUN": "The tests were run by the model's operator.",
    "L-COPIES": "Copies elsewhere, earlier outputs and models derived by others are not covered.",
    "L-CORRELATED": "Other people's records may state the same facts, and the model may still produce them.",
    "L-COHORT": "The comparison assumes that people who ask for erasure resemble those held back.",
    "L-ANCHOR": "A quarantined anchor version still holds the data, until a date the issuer must name.",
    "L-BASE": "The pretraining data of the base model is outside this erasure.",
}
# A shape is a pattern, `int`, (shape or null,), [items] or members; a name that ends in "?" may be absent.
HEX, TEXT, NUMBER = "[0-9a-f]{64}", r"[^\x00-\x1f\x7f]{1,255}", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"
DAY, BASE64, OF = "[0-9]{4}-[0-9]{2}-[0-9]{2}", "[A-Za-z0-9+/]+={0,2}", {"digest": {"sha256": HEX}}
TIME = DAY + "T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
URN = "urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
STATEMENT = {
    "_type": re.escape("https://in-toto.io/Statement/v1"), "predicateType": re.escape(PREDICATE_TYPE),
    "subject": [{"name": TEXT, **OF}], "predicate": {
        "certificateId": URN, "issuedOn": TIME, "issuer": {"id": TEXT, "role": "controller|processor"},
        "request": {"commitment": HEX, "receivedOn": DAY},
        "records": {"scheme": "rc1", "canonicalization": "lethe/canon/1", "paddedSize": int, "root": HEX},
        "model": {"line": TEXT, "previous": OF, "tensorRoot": HEX, "omsRoot": (HEX,), "erasureEpoch": int,
                  "cumulative": ({"root": HEX, "size": int},), "forms": [{"form": TEXT, **OF}]},
        "method": {"engine": TEXT, "class": "exact|bounded|approximate", "attempts": int, "code": OF,
                   "config": OF, "environment": OF},
        "verification": {"verdict": "[VNIF]", "policy": OF, "suite": TEXT, "unit": "subject", "bounds": [
            {"name": "[a-z0-9_]+", "value": NUMBER, "limit": (NUMBER,), "confidence": (NUMBER,), "form": TEXT,
             "m?": int, "n?": int}]},
        "assurance": {"level": "|".join(LEVELS), "execution": "self-asserted|tee-attested",
                      "limitations": ["|".join(LIMITATIONS)]},
        "evidence": [{"name": TEXT, "mediaType": TEXT, **OF}],
        "disposition": ({"previous": "quarantined-at-publication", "destroyWithinDays": (int,)},),
        "status": {"list": (TEXT,)}, "supersedes": (HEX,)}}
ENVELOPE = {"payload": BASE64, "payloadType": re.escape(PAYLOAD_TYPE),
            "signatures": [{"keyid": TEXT, "sig": BASE64}]}
KEY = {"keyid": HEX, "algorithm": f"{ED25519}|{P256}", "pem": r"[\n -~]+", "notBefore": (TIME,), "notAfter": (TIME,)}
TRUST = {"issuer": TEXT, "keys": [KEY], "log": ({"vkey": TEXT},)}
RECORD = {"canonicalSha256": HEX, "nonce": HEX, "index": int, "proof": [HEX]}
OPENED = {"version": "lethe/opening/1", "certificateId": URN, "paeSha256": HEX,
          "request": {"id": TEXT, "nonce": HEX}, "records": [RECORD]}
TENSOR = {"dtype": "[A-Z0-9_]+", "shape": [int], "data_offsets": [int]}
# fmt: on
Outcome = tuple[str, str, Any]
"""Of a step: its state, what it found, and what the later steps use."""


@dataclass
class Report:
    """What was checked, and what the certificate claims if it stands (empty otherwise)."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    claim: dict[str, Any] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)
    failed: int | None = None
    exit_code: int = VALID

    def attempt(self, number: int, name: str, step: Callable[..., Outcome], *arguments: Any) -> Any:
        """Run one step and note how it ended; after a failure no later one is worth running."""
        state, detail, value = "not checked", f"step {self.failed} failed", None
        if self.failed is None:
            try:
                state, detail, value = step(*arguments)
            except Exception as reason:  # noqa: BLE001  hostile bytes raise a dozen kinds; each means: refused
                state, detail = "failed", f"{reason}" or type(reason).__name__
                self.failed, self.exit_code = number, UNREADABLE if number <= 2 else INVALID
        printable = "".join(each if each.isprintable() else "?" for each in detail)
        self.steps.append({"number": number, "name": name, "state": state, "detail": printable})
        return value

    def to_json(self) -> dict[str, Any]:
        """Return the report for machines."""
        result = {"valid": self.exit_code == VALID, "exitCode": self.exit_code, "result": RESULTS[self.exit_code]}
        return {**result, "claim": self.claim, "notCovered": self.not_covered, "steps": self.steps}

    def to_text(self) -> str:
        """Return the report for people."""
        lines = ["{number:2} {name:12}{state}: {detail}".format(**step) for step in self.steps]
        if self.claim:
            lines += ["", f"Level {self.claim['level']}: {self.claim['sentence']}"]
            lines += [f"  {term} = {meaning}" for term, meaning in self.claim["terms"].items()]
            lines += [f"Limit {code}: {text}" for code, text in self.claim["limitations"].items()]
        lines += [f"Not covered by any signature: {name}" for name in self.not_covered]
        return "\n".join([*lines, "", f"Result: {RESULTS[self.exit_code]} ({self.exit_code})"])


def check(data: bytes, trust: Any = None, *, model: Path | None = None, at: datetime | None = None) -> Report:
    """Check a bundle against the content of a trust file; `model` is a directory, `at` defaults to now."""
    report = Report()
    keys = report.attempt(1, "trust", read_trust, trust)
    members = report.attempt(2, "bundle", read_bundle, data) or {}
    payload, pae_sha256, signers = report.attempt(3, "signatures", check_signatures, members, keys) or (b"", "", [])
    statement = report.attempt(4, "statement", check_statement, payload, trust)
    report.attempt(5, "subjects", check_subjects, statement, members, model)
    report.attempt(6, "log", check_logged, trust, "certificate.tlog-proof")
    report.attempt(7, "publication", check_logged, trust, "publication.dsse.json")
    report.attempt(8, "status", check_logged, trust, "status.dsse.json")
    report.attempt(9, "time", check_time, statement, signers, at or datetime.now(UTC))
    report.attempt(10, "timestamps", lambda: ("not checked", "no RFC 3161 time stamp and no replay", None))
    report.attempt(11, "opening", check_opening, statement, pae_sha256, members)
    report.attempt(12, "assurance", state_assurance, report, statement, pae_sha256)
    report.not_covered = [HOWTO] * (HOWTO in members)
    if trust is None and report.failed is None:
        report.exit_code = UNAUTHENTICATED
    return report


def read_trust(trust: Any) -> Outcome:
    """1. Trust: each key's id must be that of its PEM, and both algorithms must be there."""
    if trust is None:
        return "not checked", "no trust file, so nobody vouches for whoever wrote this bundle", {}
    fits(trust, TRUST, "the trust file")
    keys = {}
    for entry in trust["keys"]:
        key = serialization.load_pem_public_key(entry["pem"].encode())
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        algorithm = P256 if is_p256 else ED25519 if isinstance(key, ed25519.Ed25519PublicKey) else None
        if (sha256(spki).hex(), algorithm) != (entry["keyid"], entry["algorithm"]):
            raise ValueError(f"key {entry['keyid']} is not what its PEM holds")
        keys[entry["keyid"]] = (key, entry)
    if {entry["algorithm"] for _, entry in keys.values()} != {ED25519, P256}:
        raise ValueError("the trust file must name a key of each algorithm")
    return "passed", f"{len(keys)} keys of {trust['issuer']}", keys


def read_bundle(data: bytes) -> Outcome:
    """2. Bundle: exact names, each once, within the limits, in memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if wrong := (set(REQUIRED) - set(sizes)) | (set(sizes) - {*REQUIRED, *OPTIONAL}):
            raise ValueError(f"missing or unknown members: {', '.join(sorted(wrong))}")
        if len(archive.infolist()) != len(sizes):
            raise ValueError("two members have one name")
        if max(sizes.values()) > MEMBER_BYTES_MAX or max(len(data), sum(sizes.values())) > BUNDLE_BYTES_MAX:
            raise ValueError("the bundle is too large")
        return "passed", f"{len(sizes)} members", {name: archive.read(name) for name in sizes}


def check_signatures(members: dict[str, bytes], keys: dict[str, Any]) -> Outcome:
    """3. Signatures: one trusted key of each algorithm over the PAE; the Sigstore copy says the same."""
    envelope, copy = loads(members[CERTIFICATE], compact=True), loads(members[SIGSTORE], compact=True)
    fits(envelope, ENVELOPE, CERTIFICATE)
    payload = unbase64(envelope["payload"])
    pae = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    signatures = {each["keyid"]: unbase64(each["sig"]) for each in envelope["signatures"]}
    if len(signatures) != len(envelope["signatures"]):
        raise ValueError("a key counts once")
    signed = {}
    for key, entry in (keys[keyid] for keyid in signatures if keyid in keys):  # others count for nothing
        scheme = [ec.ECDSA(hashes.SHA256())] if entry["algorithm"] == P256 else []
        try:
            key.verify(signatures[entry["keyid"]], pae, *scheme)
        except InvalidSignature:
            raise ValueError(f"the {entry['algorithm']} signature does not verify") from None
        signed[entry["algorithm"]] = entry
    if keys and set(signed) != {ED25519, P256}:
        raise ValueError(f"no signature by a trusted key: {', '.join(sorted({ED25519, P256} - set(signed)))}")
    allowed = [each for each in envelope["signatures"] if not keys or each["keyid"] == signed[P256]["keyid"]]
    if copy not in [sigstore(envelope, each) for each in allowed]:
        raise ValueError(f"{SIGSTORE} is not the same statement with the {P256} signature alone")
    found = payload, sha256(pae).hex(), list(signed.values())
    if not keys:
        return "not checked", "no trusted keys", found
    return "passed", f"{' and '.join(sorted(signed))}, paeSha256 {found[1]}", found


def sigstore(envelope: dict[str, Any], signature: dict[str, Any]) -> dict[str, Any]:
    """Return the Sigstore bundle that carries this signature of the envelope alone."""
    material = {"publicKey": {"hint": signature["keyid"]}, "tlogEntries": []}
    alone = {**envelope, "signatures": [signature]}
    return {"mediaType": SIGSTORE_TYPE, "dsseEnvelope": alone, "verificationMaterial": material}


def check_statement(payload: bytes, trust: Any) -> Outcome:
    """4. Statement: types and schema, the issuer one trusts, no claim above its ceiling or its verdict."""
    statement = loads(payload)
    fits(statement, STATEMENT, "the statement")
    predicate = statement["predicate"]
    issuer, kind, tested = predicate["issuer"]["id"], predicate["method"]["class"], predicate["verification"]
    level, limits = predicate["assurance"]["level"], predicate["assurance"]["limitations"]
    if trust is not None and issuer != trust["issuer"]:
        raise ValueError(f"issued by {issuer}, trusted is {trust['issuer']}")
    if kind not in LEVELS[level][0].split():
        raise ValueError(f"level {level} is above the ceiling of class {kind}")
    if tested["verdict"] not in LEVELS[level][1] or (level == "verified" and not tested["bounds"]):
        raise ValueError(f"level {level} cannot stand on verdict {tested['verdict']} and these bounds")
    if not limits or len(set(limits)) != len(limits):
        raise ValueError("the limitations must be named, each once")
    return "passed", f"{predicate['certificateId']} by {issuer}", statement


def check_subjects(statement: Any, members: dict[str, bytes], model: Path | None) -> Outcome:
    """5. Subjects: the manifest is the one meant, its layers are the files named, the files are those."""
    subjects = [(each["name"], each["digest"]["sha256"]) for each in statement["subject"]]
    digest = sha256(members[MANIFEST]).hex()
    if subjects[:1] != [(MANIFEST, digest)]:
        raise ValueError(f"the certificate is about another model than that of manifest {digest}")
    entries = [(each["annotations"], each["digest"]) for each in loads(members[MANIFEST])["layers"]]
    layers = [(notes["org.cncf.model.filepath"], digest.removeprefix("sha256:")) for notes, digest in entries]
    if subjects[1:] != layers or len(dict(layers)) != len(layers):
        raise ValueError("the layers of the manifest are not the files of the certificate")
    if model is None:
        return "passed", f"manifest {digest}, {len(layers)} files (no --model to compare them with)", None
    check_files(model, dict(layers), statement["predicate"]["model"]["tensorRoot"])
    return "passed", f"manifest {digest}, {len(layers)} files and the tensor root are those of the model", None


def check_files(model: Path, layers: dict[str, str], tensor_root: str) -> None:
    """Hash every file of a model directory, then every tensor (which sharding does not change)."""
    files = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    if wrong := set(files) ^ set(layers):
        raise ValueError(f"the model has not exactly the certified files: {', '.join(sorted(wrong))}")
    tensors: dict[bytes, bytes] = {}
    for name, path in files.items():
        with path.open("rb") as file:
            if read_sha256(file, path.stat().st_size).hex() != layers[name]:
                raise ValueError(f"{name} is not the certified file")
            tensors |= read_tensors(file) if name.endswith(".safetensors") else {}
    if merkle_root([sha256(b"\0", tensors[name]) for name in sorted(tensors)]).hex() != tensor_root:
        raise ValueError("the tensors are not the certified ones")


def read_tensors(file: BinaryIO) -> dict[bytes, bytes]:
    """Return the tree entry of each tensor by name: its JCS description, then the hash of its bytes."""
    file.seek(0)
    size, entries = struct.unpack("<Q", file.read(8))[0], {}
    for name, tensor in loads(file.read(min(size, HEADER_BYTES_MAX))).items():
        if name != "__metadata__":
            fits(tensor, TENSOR, f"tensor {name}")
            begin, end = tensor["data_offsets"]
            file.seek(8 + size + begin)
            described = {"dtype": tensor["dtype"], "name": name, "shape": tensor["shape"]}  # in JCS order
            text = json.dumps(described, separators=(",", ":"), ensure_ascii=False)
            entries[name.encode()] = text.encode() + read_sha256(file, end - begin)
    return entries


def check_logged(trust: Any, member: str) -> Outcome:
    """6, 7, 8. Log, publication, status: demanded as soon as the trust file names a log."""
    if trust is None or trust["log"] is None:
        return "not checked", "no trust file" if trust is None else "this issuer keeps no log", None
    raise ValueError(f"the trust file names a log, and the bundle holds no {member}")


def check_time(statement: Any, signers: list[Any], now: datetime) -> Outcome:
    """9. Time: not of the future, and both keys valid when it says it was signed."""
    text = statement["predicate"]["issuedOn"]
    issued = datetime.fromisoformat(text)
    if issued > now + SKEW_MAX:
        raise ValueError(f"issued on {text}, which is yet to come at {now:%Y-%m-%dT%H:%M:%SZ}")
    for entry in signers:
        if not (entry["notBefore"] or text) <= text <= (entry["notAfter"] or text):  # all UTC, one form
            raise ValueError(f"the {entry['algorithm']} key was not valid on {text}")
    return "passed", f"issued on {text} by the issuer's own clock (no independent evidence)", None


def check_opening(statement: Any, pae_sha256: str, members: dict[str, bytes]) -> Outcome:
    """11. Opening: it belongs to this certificate, and every record is under its root."""
    if OPENING not in members:
        return "not checked", "this copy holds no opening", None
    opening, predicate = loads(members[OPENING]), statement["predicate"]
    fits(opening, OPENED, OPENING)
    if (opening["certificateId"], opening["paeSha256"]) != (predicate["certificateId"], pae_sha256):
        raise ValueError("the opening belongs to another certificate")
    request, nonce = opening["request"]["id"], bytes.fromhex(opening["request"]["nonce"])
    if sha256(b"lethe/request/v1\0", nonce, request.encode()).hex() != predicate["request"]["commitment"]:
        raise ValueError("the opening is of another request")
    for record in opening["records"]:
        nonce, content, *proof = map(bytes.fromhex, (record["nonce"], record["canonicalSha256"], *record["proof"]))
        leaf = sha256(b"\0", sha256(b"lethe/record/v1\0", nonce, content))
        root = inclusion_root(record["index"], predicate["records"]["paddedSize"], leaf, proof)
        if root is None or root.hex() != predicate["records"]["root"]:
            raise ValueError(f"record {content.hex()} is not among the committed ones")
    count = len({record["index"] for record in opening["records"]})
    if not count or count != len(opening["records"]):
        raise ValueError("the opening must open records, each once")
    return "passed", f"request {request}, {count} records, all under the committed root", None


def state_assurance(report: Report, statement: Any, pae_sha256: str) -> Outcome:
    """12. Assurance: the sentence of the level, what its letters stand for, and the limits."""
    predicate = statement["predicate"]
    model, method, assurance = predicate["model"], predicate["method"], predicate["assurance"]
    terms = {
        "D1": f"version {model['previous']['digest']['sha256']} of {model['line']}",
        "D2": f"version {statement['subject'][0]['digest']['sha256']}",
        "P": f"{method['engine']} (class {method['class']}), code {method['code']['digest']['sha256']}",
        "R": f"the data that configuration {method['config']['digest']['sha256']} names",
        "committed records": f"those opened under root {predicate['records']['root']}",
    }
    for number, bound in enumerate(predicate["verification"]["bounds"], 1):
        terms[f"bound {number}"] = ", ".join(f"{name} {value}" for name, value in bound.items())
    limitations = {code: LIMITATIONS[code] for code in assurance["limitations"]}
    level = {"level": assurance["level"], "sentence": LEVELS[assurance["level"]][2]}
    identity = {"certificateId": predicate["certificateId"], "paeSha256": pae_sha256}
    report.claim = {**identity, **level, "terms": terms, "limitations": limitations}
    return "passed", f"level {assurance['level']}, execution {assurance['execution']}", None


def fits(value: Any, shape: Any, where: str) -> None:
    """Refuse a value that has not exactly this shape."""
    if isinstance(shape, tuple):
        return None if value is None else fits(value, shape[0], where)
    if isinstance(shape, dict) and isinstance(value, dict):
        inner = {name.removesuffix("?"): each for name, each in shape.items()}
        right = {name for name in inner if name in shape} <= set(value) <= set(inner)
        parts = [(value[name], inner[name], f"{where}.{name}") for name in value if right]
    elif isinstance(shape, list) and isinstance(value, list):
        right, parts = True, [(item, shape[0], where) for item in value]
    elif isinstance(shape, str) and isinstance(value, str):
        right, parts = re.fullmatch(shape, value) is not None, []
    else:
        right, parts = shape is int and type(value) is int and value >= 0, []
    if not right:
        raise ValueError(f"{where} is not of the form that is due")
    for part in parts:
        fits(*part)


def loads(data: bytes, *, compact: bool = False) -> Any:
    """Return strict JSON: no key twice, no float, nothing beyond 2^53; `compact`: no white space either."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a JSON key occurs twice")
        return dict(pairs)

    def number(text: str) -> int:
        if not re.fullmatch("-?[0-9]{1,16}", text) or abs(int(text)) >= 2**53:
            raise ValueError("a JSON number is no integer, or beyond 2^53")
        return int(text)

    if compact and re.search(rb"\s", data):
        raise ValueError("white space where there must be none")
    hooks = {"parse_int": number, "parse_float": number, "parse_constant": number}
    return json.loads(data.decode(), object_pairs_hook=members, **hooks)


def unbase64(text: str) -> bytes:
    """Return the bytes, of which this must be the one spelling."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("base64 with bits that mean nothing")
    return raw


def sha256(*parts: bytes) -> bytes:
    """Return the hash over all parts."""
    return hashlib.sha256(b"".join(parts)).digest()


def read_sha256(file: BinaryIO, size: int) -> bytes:
    """Return the hash over the next `size` bytes of a file that must have them."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    if size:
        raise ValueError("a file is shorter than it says")
    return digest.digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 root over leaf hashes; the left subtree holds the largest power of two below n."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256()
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\1", merkle_root(leaves[:k]), merkle_root(leaves[k:]))


def inclusion_root(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """Return the root a proof leads to, None if its length is not the path's (RFC 9162, 2.1.3.2)."""
    node, last = index, size - 1
    if not 0 <= index < size or any(len(each) != 32 for each in (leaf, *proof)):
        return None
    for sibling in proof:
        if last == 0:
            return None
        if node & 1 or node == last:
            leaf = sha256(b"\1", sibling, leaf)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            leaf = sha256(b"\1", leaf, sibling)
        node, last = node >> 1, last >> 1
    return leaf if last == 0 else None


def main() -> int:
    """Read the arguments, check, print, return the exit code."""
    parser = argparse.ArgumentParser(description="Check an erasure certificate offline.")
    parser.add_argument("bundle", type=Path, metavar="FILE.zip")
    parser.add_argument("--trust", type=Path, help="trust.json, from the issuer and not from the bundle")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the model's files, to compare")
    parser.add_argument("--at", type=datetime.fromisoformat, metavar="TIME", help="as of then, UTC; default now")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        trust = loads(chosen.trust.read_bytes()) if chosen.trust else None
        with chosen.bundle.open("rb") as file:
            data = file.read(BUNDLE_BYTES_MAX + 1)
    except (OSError, ValueError) as reason:
        print(f"unreadable: {reason}", file=sys.stderr)
        return UNREADABLE
    at = chosen.at.replace(tzinfo=chosen.at.tzinfo or UTC) if chosen.at else None
    report = check(data, trust, model=chosen.model, at=at)
    print(json.dumps(report.to_json(), indent=1) if chosen.json else report.to_text())
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
