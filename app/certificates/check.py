"""Check an erasure certificate offline. One file: Python 3.11 and `cryptography`.

    python check.py FILE.zip --trust trust.json [--model DIR] [--at TIME] [--json]

Twelve numbered steps, listed in `check`. Exit: 0 valid, 1 invalid, 2 unreadable, 3 consistent but nobody
authenticated (no --trust), 4 status stale or missing, 5 revoked. The answer is worth as much as this file
and the trust file: get both from elsewhere. Over 400 lines, as step 6 checks a log and asks no program.
"""

import argparse
import base64
import hashlib
import io
import json
import mmap
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

VALID, INVALID, UNREADABLE, UNAUTHENTICATED, STATUS_STALE, REVOKED = range(6)
RESULTS = "valid", "invalid", "unreadable", "consistent, issuer not authenticated", "status stale", "revoked"
CERTIFICATE, SIGSTORE, MANIFEST = "certificate.dsse.json", "certificate.sigstore.json", "manifest.json"
HOWTO, OPENING, PROOF = "HOWTO-VERIFY.md", "opening.json", "certificate.tlog-proof"
REQUIRED, OPTIONAL = {CERTIFICATE, SIGSTORE, MANIFEST}, {HOWTO, OPENING, PROOF}
MEMBER_BYTES_MAX, BUNDLE_BYTES_MAX, SKEW_MAX = 16 << 20, 64 << 20, timedelta(minutes=5)  # of two clocks
PREDICATE_TYPE = "https://lethe.example/attestation/erasure-certificate/v1"
PAYLOAD_TYPE, ED25519, P256 = "application/vnd.in-toto+json", "ed25519", "ecdsa-p256"
# fmt: off
LEVELS = {  # highest first: the verdicts it may stand on (`exact` rests on the process), what it says
    "exact": ("VNIF", "D2 is the output of P on R, which excludes the committed records."),
    "certified": ("VNI", "The stated bound holds for D2 if the listed assumptions hold."),
    "verified": ("V", ("P ran on D1 against the committed records and gave D2; the pre-registered tests "
                       "passed with the stated bounds. This does not prove that no influence remains.")),
    "executed": ("N", ("P ran; nothing specific to the records was measurable before or after, at the "
                       "stated sensitivity.")),
    "inconclusive": ("VNI", "P ran; no residue was seen, but the tests could not bound it.")}
CEILING = {"exact": "exact", "bounded": "certified", "approximate": "verified"}  # by the method's class
LIMITATIONS = {
    "L-OUTPUT": "Only listed attacks and forms were tested, which does not prove that no influence remains.",
    "L-SELF-RUN": "The tests were run by the model's operator.",
    "L-COPIES": "Copies elsewhere, earlier outputs and models derived by others are not covered.",
    "L-CORRELATED": "Other people's records may state the same facts, and the model may still produce them.",
    "L-COHORT": "The comparison assumes that people who ask for erasure resemble those held back.",
    "L-ANCHOR": "A quarantined anchor version still holds the data, until a date the issuer must name.",
    "L-BASE": "The pretraining data of the base model is outside this erasure."}
# A shape is a pattern, `int`, (shape or null or absent,), [items] or members.
HEX, TEXT, NUMBER = "[0-9a-f]{64}", r"[^\x00-\x1f\x7f]{1,255}", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?"
DAY, TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}", "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)?"  # canonical
OF, SIGNATURE = {"digest": {"sha256": HEX}}, {"keyid": TEXT, "sig": BASE64}
URN = "urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
BOUND = {"name": "[a-z0-9_]+", "value": NUMBER, "limit": (NUMBER,), "confidence": (NUMBER,), "form": TEXT,
         "m": (int,), "n": (int,)}
PREDICATE = {
    "certificateId": URN, "issuedOn": TIME, "issuer": {"id": TEXT, "role": "controller|processor"},
    "request": {"commitment": HEX, "receivedOn": DAY},
    "records": {"scheme": "rc1", "canonicalization": "lethe/canon/1", "paddedSize": int, "root": HEX},
    "model": {"line": TEXT, "previous": OF, "tensorRoot": HEX, "omsRoot": (HEX,), "erasureEpoch": int,
              "cumulative": ({"root": HEX, "size": int},), "forms": [{"form": TEXT, **OF}]},
    "method": {"engine": TEXT, "class": "|".join(CEILING), "attempts": int, "code": OF, "config": OF,
               "environment": OF},
    "verification": {"verdict": "[VNIF]", "policy": OF, "suite": TEXT, "unit": "subject", "bounds": [BOUND]},
    "assurance": {"level": "|".join(LEVELS), "execution": "self-asserted|tee-attested",
                  "limitations": ["|".join(LIMITATIONS)]},
    "evidence": [{"name": TEXT, "mediaType": TEXT, **OF}], "status": {"list": (TEXT,)}, "supersedes": (HEX,),
    "disposition": ({"previous": "quarantined-at-publication", "destroyWithinDays": (int,)},)}
STATEMENT = {"_type": r"https://in-toto\.io/Statement/v1", "predicateType": re.escape(PREDICATE_TYPE),
             "subject": [{"name": TEXT, **OF}], "predicate": PREDICATE}
ENVELOPE = {"payload": BASE64, "payloadType": re.escape(PAYLOAD_TYPE), "signatures": [SIGNATURE]}
KEY = {"keyid": HEX, "algorithm": TEXT, "pem": r"[\n -~]+", "notBefore": (TIME,), "notAfter": (TIME,)}
TRUST = {"issuer": TEXT, "keys": [KEY], "log": ({"policy": r"[\t\n -~]{1,99999}"},)}
HASH, COUNT = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", "0|[1-9][0-9]{0,18}"
RECORD = {"canonicalSha256": HEX, "nonce": HEX, "index": int, "proof": [HEX]}
OPENED = {"version": "lethe/opening/1", "certificateId": URN, "paeSha256": HEX,
          "request": {"id": TEXT, "nonce": HEX}, "records": [RECORD]}
TENSOR = {"dtype": "[A-Z0-9_]+", "shape": [int], "data_offsets": [int]}
# fmt: on
Outcome = tuple[str, str, Any]  # of a step: its state, what it found, what the later steps use


@dataclass
class Report:
    """How each step ended, and what the certificate claims if it stands; `vars` of it is JSON."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    claim: dict[str, Any] = field(default_factory=dict)
    failed: int | None = None
    exit_code: int = VALID

    def attempt(self, number: int, name: str, step: Callable[..., Outcome], *arguments: Any) -> Any:
        """Run one step and note how it ended; after a failure no later one is worth running."""
        state, detail, value = "not checked", f"step {self.failed} failed", None
        if self.failed is None:
            try:
                state, detail, value = step(*arguments)
            except Exception as reason:  # noqa: BLE001  hostile bytes raise a dozen kinds; all are refusals
                state, detail = "failed", f"{reason}" or type(reason).__name__
                self.failed, self.exit_code = number, UNREADABLE if number <= 2 else INVALID
        self.steps.append({"number": number, "name": name, "state": state, "detail": detail})
        return value

    def to_text(self) -> str:
        """Return the report for people."""
        lines = ["{number:2} {name:12}{state}: {detail}".format(**step) for step in self.steps]
        if self.claim:
            lines += ["", f"Level {self.claim['level']}: {self.claim['sentence']}"]
            lines += [f"  {term} = {meaning}" for term, meaning in self.claim["terms"].items()]
            lines += [f"Limit {code}: {text}" for code, text in self.claim["limitations"].items()]
        lines += ["", f"Result: {RESULTS[self.exit_code]} ({self.exit_code})"]
        return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def check(data: bytes, trust: Any = None, *, model: Path | None = None, at: datetime | None = None) -> Report:
    """Check a bundle against the content of a trust file; `model` is a directory, `at` defaults to now."""
    report = Report(exit_code=UNAUTHENTICATED if trust is None else VALID)
    keys = report.attempt(1, "trust", read_trust, trust)
    members = report.attempt(2, "bundle", read_bundle, data) or {}
    signed: Any = report.attempt(3, "signatures", check_signatures, members, keys) or (b"", "", {})
    statement = report.attempt(4, "statement", check_statement, signed[0], trust)
    report.attempt(5, "subjects", check_subjects, statement, members, model)
    seen = report.attempt(6, "log", check_log, statement, signed[1], members, trust) or {}
    report.attempt(7, "publication", lambda: ("not checked", "this issuer states no publication", None))
    report.attempt(8, "status", lambda: ("not checked", "this issuer keeps no list of revocations", None))
    report.attempt(9, "time", check_time, statement, signed[2], seen, at or datetime.now(UTC))
    report.attempt(10, "timestamps", lambda: ("not checked", "no RFC 3161 time stamp and no replay", None))
    report.attempt(11, "opening", check_opening, statement, signed[1], members)
    report.claim = report.attempt(12, "assurance", state_assurance, statement, signed[1]) or {}
    return report


def read_trust(trust: Any) -> Outcome:
    """1. Trust: each key's id must be that of its PEM, and both algorithms must be there."""
    if trust is None:
        return "not checked", "no trust file, so nobody vouches for whoever wrote this bundle", None
    fits(trust, TRUST, "the trust file")
    keys = {}
    for entry in trust["keys"]:
        key = serialization.load_pem_public_key(entry["pem"].encode())
        spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        algorithm = P256 if is_p256 else ED25519 if isinstance(key, ed25519.Ed25519PublicKey) else None
        if (sha256(spki).hex(), algorithm) != (entry["keyid"], entry["algorithm"]):
            raise ValueError(f"key {entry['keyid']} is not what its PEM holds")
        keys[entry["keyid"]] = (key, [ec.ECDSA(hashes.SHA256())] * is_p256, entry)
    read_policy((trust.get("log") or {"policy": "quorum none"})["policy"])
    return "passed", f"{len(keys)} keys of {trust['issuer']}{', and its log' * bool(trust.get('log'))}", keys


def read_bundle(data: bytes) -> Outcome:
    """2. Bundle: exact names, each once, within the limits, in memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if wrong := REQUIRED - set(sizes) | set(sizes) - REQUIRED - OPTIONAL:
            raise ValueError(f"missing or unknown members: {', '.join(sorted(wrong))}")
        if len(archive.infolist()) != len(sizes) or any(entry.compress_type for entry in archive.infolist()):
            raise ValueError("every member must be there once, and not compressed")
        if len(data) > BUNDLE_BYTES_MAX or max(sizes.values()) > MEMBER_BYTES_MAX:
            raise ValueError("the bundle is too large")
        return "passed", f"{len(sizes)} members ({HOWTO} not covered)", {n: archive.read(n) for n in sizes}


def check_signatures(members: dict[str, bytes], keys: dict[str, Any] | None) -> Outcome:
    """3. Signatures: one trusted key of each algorithm over the PAE; the Sigstore copy says the same."""
    envelope = loads(members[CERTIFICATE], compact=True)
    fits(envelope, ENVELOPE, CERTIFICATE)
    payload = base64.b64decode(envelope["payload"])
    pae = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    identity = sha256(pae).hex()
    if keys is None:
        return "not checked", f"no trusted keys; {SIGSTORE} not compared", (payload, identity, {})
    signed: dict[str, Any] = {}
    for each in envelope["signatures"]:
        if each["keyid"] in keys:  # any other counts for nothing
            key, scheme, entry = keys[each["keyid"]]
            if entry["algorithm"] in signed:
                raise ValueError(f"two {entry['algorithm']} signatures, and a key counts once")
            key.verify(base64.b64decode(each["sig"]), pae, *scheme)  # raises InvalidSignature
            signed[entry["algorithm"]] = each, entry
    if missing := {ED25519, P256} - set(signed):
        raise ValueError(f"no signature by a trusted key: {', '.join(sorted(missing))}")
    alone = {**envelope, "signatures": [signed[P256][0]]}
    material = {"publicKey": {"hint": signed[P256][0]["keyid"]}, "tlogEntries": []}
    kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
    copy = {"mediaType": kind, "dsseEnvelope": alone, "verificationMaterial": material}
    if loads(members[SIGSTORE], compact=True) != copy:
        raise ValueError(f"{SIGSTORE} is not the same statement with the {P256} signature alone")
    return "passed", f"{' and '.join(sorted(signed))}, paeSha256 {identity}", (payload, identity, signed)


def check_statement(payload: bytes, trust: Any) -> Outcome:
    """4. Statement: types and schema, the issuer one trusts, no claim above its ceiling or its verdict."""
    statement = loads(payload)
    fits(statement, STATEMENT, "the statement")
    predicate = statement["predicate"]
    issuer, kind, tested = predicate["issuer"]["id"], predicate["method"]["class"], predicate["verification"]
    level, limits = predicate["assurance"]["level"], predicate["assurance"]["limitations"]
    if trust is not None and issuer != trust["issuer"]:
        raise ValueError(f"issued by {issuer}, trusted is {trust['issuer']}")
    if list(LEVELS).index(level) < list(LEVELS).index(CEILING[kind]):
        raise ValueError(f"level {level} is above the ceiling of class {kind}")
    if tested["verdict"] not in LEVELS[level][0] or (level == "verified" and not tested["bounds"]):
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
    files = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    if wrong := set(files) ^ set(dict(layers)):
        raise ValueError(f"the model has not exactly the certified files: {', '.join(sorted(wrong))}")
    tensors: dict[bytes, bytes] = {}
    for name, expected in layers:
        with files[name].open("rb") as file:  # mapped, not read: a file may be larger than the memory
            size = files[name].stat().st_size
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError(f"{name} is not the certified file")
        tensors |= read_tensors(data) if name.endswith(".safetensors") else {}
    root = merkle_root([sha256(b"\0", tensors[name]) for name in sorted(tensors)])
    if root.hex() != statement["predicate"]["model"]["tensorRoot"]:
        raise ValueError("the tensors are not the certified ones")
    return "passed", f"manifest {digest}, all {len(layers)} files and the tensor root as in the model", None


def read_tensors(data: memoryview) -> dict[bytes, bytes]:
    """Return the tree entry of each tensor by name: its JCS description, then the hash of its bytes."""
    start, entries = 8 + int.from_bytes(data[:8], "little"), {}
    for name, each in loads(bytes(data[8:start])).items():
        if name != "__metadata__":
            fits(each, TENSOR, f"tensor {name}")
            begin, end = (start + offset for offset in each.pop("data_offsets"))
            form = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            text = form.encode(each | {"name": name}).encode()
            entries[name.encode()] = text + hashlib.sha256(data[begin:end]).digest()
    return entries


def check_log(statement: Any, pae_sha256: str, members: dict[str, bytes], trust: Any) -> Outcome:
    """6. Log: the certificate is under a checkpoint that the log signed and enough witnesses cosigned."""
    if trust is None or trust.get("log") is None:
        uncovered = f" ({PROOF} not covered)" * (PROOF in members)
        return "not checked", ("this issuer keeps no log" if trust else "no trust file") + uncovered, None
    if PROOF not in members:
        raise ValueError(f"not logged: the trust file names a log, and the bundle holds no {PROOF}")
    form = rf"c2sp[.]org/tlog-proof@v1\nindex ({COUNT})((?:\n{HASH})*)\n\n((?s:.+))"
    index, path, note = parts(form, members[PROOF].decode(), PROOF)
    origin, size, root, seen = open_checkpoint(note, *read_policy(trust["log"]["policy"]))
    subject = statement["subject"][0]["digest"]["sha256"]
    entry = (
        f'{{"kind":"erasure-certificate/v1","paeSha256":"{pae_sha256}","subject":"{subject}"}}'  # RFC 8785
    )
    leaf = sha256(b"\0", entry.encode())
    if inclusion_root(int(index), size, leaf, [base64.b64decode(each) for each in path.split()]) != root:
        raise ValueError(f"the certificate is not entry {index} of the {size} that {origin} has signed")
    by = f"{', '.join(sorted(seen)) or 'nobody'}{' (an operator-signed log)' * (len(seen) < 2)}"
    return "passed", f"entry {index} of {size} in {origin}, cosigned by {by}", seen


def open_checkpoint(note: str, keys: Any, enough: Any) -> tuple[str, int, bytes, dict[str, int]]:
    """Return origin, size and root of a C2SP checkpoint that a policy accepts, and its witnesses' times."""
    text, _, signatures = note.rpartition("\n\n")
    origin, size, root = parts(f"(.+)\n({COUNT})\n({HASH})", text, "the checkpoint")
    signed, seen = False, dict[str, int]()
    for line in signatures.splitlines(keepends=True):
        name, encoded = parts(rf"\u2014 (\S+) ({BASE64})\n", line, "a signature of the checkpoint")
        raw = base64.b64decode(encoded)
        witness, key = keys.get((name, raw[:4].hex()), (None, None))
        if witness:
            seen[witness], raw = int.from_bytes(raw[4:12]), raw[8:]
            key.verify(raw[4:], f"cosignature/v1\ntime {seen[witness]}\n{text}\n".encode())
        elif key:  # any other counts for nothing
            key.verify(raw[4:], f"{text}\n".encode())  # raises InvalidSignature
            signed |= name == origin
    if not signed:
        raise ValueError(f"no trusted log has signed the checkpoint of {origin}")
    if not enough(seen):
        raise ValueError(f"cosigned by {', '.join(sorted(seen)) or 'nobody'}: too few for the log's policy")
    return origin, int(size), base64.b64decode(root), seen


def read_policy(text: str) -> tuple[dict[tuple[str, str], Any], Callable[..., bool]]:
    """Return a C2SP tlog-policy: keys by name and id (with the witness's name), and which are enough."""
    keys, groups = dict[tuple[str, str], Any](), dict[str, tuple[int, list[str]]]()
    known, used, publics, quorum = ["none"], ["none"], list[bytes](), list[str]()
    for line in text.split("\n"):
        match re.sub(r"\s+https?://\S+\s*$", "", line).split():  # where it can be asked is of no interest
            case ["log" | "witness" as kind, *names, vkey] if len(names) == (kind == "witness"):
                name, digits, encoded = parts(rf"([^\s+]+)[+]([0-9a-f]{{8}})[+]({BASE64})", vkey, "a log key")
                raw = base64.b64decode(encoded)
                if sha256(name.encode(), b"\n", raw)[:4].hex() != digits or raw[0] != (4 if names else 1):
                    raise ValueError(f"the key of {name} has not its id, or is of another kind than due")
                keys[name, digits] = "".join(names), ed25519.Ed25519PublicKey.from_public_bytes(raw[1:])
                known, publics = known + names, [*publics, raw[1:]]
            case ["group", name, least, *members]:
                groups[name] = int({"any": "1", "all": f"{len(members)}"}.get(least, least)), members
                if not 1 <= groups[name][0] <= len(members) or not set(members) <= set(known):
                    raise ValueError(f"the log's policy cannot have the group {name}")
                known, used = [*known, name], used + members
            case ["quorum", name] if name in known:
                quorum.append(name)
            case [word, *_] if not word.startswith("#"):
                raise ValueError(f"the log's policy has a line that is not understood: {line}")
    if len(quorum) != 1 or any(len(set(each)) != len(each) for each in (known, used, publics)):
        raise ValueError("the log's policy must have one quorum, and no name or key twice")

    def enough(seen: dict[str, int], name: str = quorum[0]) -> bool:
        least, members = groups.get(name, (1, []))
        return name == "none" or name in seen or sum(enough(seen, each) for each in members) >= least

    return keys, enough


def parts(pattern: str, text: str, where: str) -> tuple[str, ...]:
    """Return the groups of a pattern that the whole text must have."""
    if not (found := re.fullmatch(pattern, text)):
        raise ValueError(f"{where} is not of the form that is due")
    return found.groups()


def check_time(statement: Any, signers: dict[str, Any], seen: dict[str, int], now: datetime) -> Outcome:
    """9. Time: not of the future, and both keys valid when it was signed and when witnesses saw it."""
    latest = (now.replace(tzinfo=now.tzinfo or UTC) + SKEW_MAX).astimezone(UTC)
    text, by = statement["predicate"]["issuedOn"], ", ".join(sorted(seen))
    ends = [f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}" for at in sorted(seen.values())]
    limits = [(key.get("notBefore"), key.get("notAfter")) for _, key in signers.values()]
    for moment in [text, *ends]:
        for begin, end in [("", f"{latest:%Y-%m-%dT%H:%M:%SZ}"), *limits]:
            if not (begin or moment) <= moment <= (end or moment):  # all are UTC in one form
                raise ValueError(
                    f"signed on {moment}, which is not from {begin or 'ever'} to {end or 'ever'}"
                )
    if seen and datetime.fromisoformat(text).timestamp() > min(seen.values()) + SKEW_MAX.total_seconds():
        raise ValueError(f"issued on {text}, and {by} had seen it on {ends[0]}")
    evidence = f"seen by {by} until {ends[-1]}" if seen else "no independent evidence"
    return "passed", f"issued on {text} by the issuer's own clock ({evidence})", None


def check_opening(statement: Any, pae_sha256: str, members: dict[str, bytes]) -> Outcome:
    """11. Opening: it belongs to this certificate, and every record is under its root."""
    if OPENING not in members:
        return "not checked", "this copy holds no opening", None
    opening, predicate = loads(members[OPENING]), statement["predicate"]
    fits(opening, OPENED, OPENING)
    request, nonce = opening["request"]["id"], bytes.fromhex(opening["request"]["nonce"])
    committed = sha256(b"lethe/request/v1\0", nonce, request.encode()).hex()
    due = predicate["certificateId"], pae_sha256, predicate["request"]["commitment"]
    if (opening["certificateId"], opening["paeSha256"], committed) != due:
        raise ValueError("the opening belongs to another certificate or request")
    for each in opening["records"]:
        nonce, content, *proof = map(bytes.fromhex, [each["nonce"], each["canonicalSha256"], *each["proof"]])
        leaf = sha256(b"\0", sha256(b"lethe/record/v1\0", nonce, content))
        root = inclusion_root(each["index"], predicate["records"]["paddedSize"], leaf, proof)
        if root.hex() != predicate["records"]["root"]:
            raise ValueError(f"record {content.hex()} is not among the committed ones")
    if len({each["index"] for each in opening["records"]}) != len(opening["records"]):
        raise ValueError("the opening opens a record twice")
    return "passed", f"request {request}, {len(opening['records'])} records under the committed root", None


def state_assurance(statement: Any, pae_sha256: str) -> Outcome:
    """12. Assurance: the sentence of the level, what its letters stand for, and the limits."""
    predicate = statement["predicate"]
    model, method, assurance = predicate["model"], predicate["method"], predicate["assurance"]
    terms = {
        "D1": f"version {model['previous']['digest']['sha256']} of {model['line']}",
        "D2": f"version {statement['subject'][0]['digest']['sha256']}",
        "P": f"{method['engine']} (class {method['class']}), code {method['code']['digest']['sha256']}",
        "R": f"the data that configuration {method['config']['digest']['sha256']} names",
        "committed records": f"those opened under root {predicate['records']['root']}"}  # fmt: skip
    for number, bound in enumerate(predicate["verification"]["bounds"], 1):
        terms[f"bound {number}"] = ", ".join(f"{name} {value}" for name, value in bound.items())
    level, limits = assurance["level"], {code: LIMITATIONS[code] for code in assurance["limitations"]}
    claim = {"certificate_id": predicate["certificateId"], "pae_sha256": pae_sha256, "level": level}
    claim |= {"sentence": LEVELS[level][1], "terms": terms, "limitations": limits}
    return "passed", f"level {level}, execution {assurance['execution']}", claim


def fits(value: Any, shape: Any, where: str) -> None:
    """Refuse a value that has not exactly this shape."""
    right, parts = shape is int and type(value) is int and value >= 0, []
    if isinstance(shape, tuple):
        right, parts = True, [(value, shape[0], where)] * (value is not None)
    elif isinstance(shape, str):
        right = isinstance(value, str) and re.fullmatch(shape, value) is not None
    elif isinstance(shape, list) and isinstance(value, list):
        right, parts = True, [(item, shape[0], where) for item in value]
    elif isinstance(shape, dict) and isinstance(value, dict):
        right = {n for n in shape if not isinstance(shape[n], tuple)} <= set(value) <= set(shape)
        parts = [(value[name], shape[name], f"{where}.{name}") for name in value if right]
    if not right:
        raise ValueError(f"{where} is not of the form that is due")
    for part in parts:
        fits(*part)


def loads(data: bytes, *, compact: bool = False) -> Any:
    """Return strict JSON: no key twice, no float, nothing beyond 2^53; `compact`: no white space either."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a JSON key occurs twice")
        return dict(pairs)

    def whole(text: str) -> int:
        if not re.fullmatch("-?[0-9]{1,16}", text) or abs(int(text)) >= 2**53:
            raise ValueError("a JSON number is no integer, or beyond 2^53")
        return int(text)

    text = data.decode()
    if compact and re.search(r"\s", text):
        raise ValueError("white space where there must be none")
    return json.loads(text, object_pairs_hook=once, parse_int=whole, parse_float=whole, parse_constant=whole)


def sha256(*parts: bytes) -> bytes:
    """Return the hash over all parts."""
    return hashlib.sha256(b"".join(parts)).digest()


def merkle_root(leaves: list[bytes]) -> bytes:
    """Return the RFC 6962 root over leaf hashes; the left subtree holds the largest power of two below n."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256()
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\1", merkle_root(leaves[:k]), merkle_root(leaves[k:]))


def inclusion_root(index: int, size: int, leaf: bytes, proof: list[bytes]) -> bytes:
    """Return the root to which a proof leads: the definition of PATH (RFC 6962, 2.1.1) read backwards."""
    if not 0 <= index < size or (size == 1) == bool(proof) or len([leaf, *proof][-1]) != 32:
        raise ValueError("a proof has not the form of its path")
    if size == 1:
        return leaf
    k = 1 << ((size - 1).bit_length() - 1)
    if index < k:
        return sha256(b"\1", inclusion_root(index, k, leaf, proof[:-1]), proof[-1])
    return sha256(b"\1", proof[-1], inclusion_root(index - k, size - k, leaf, proof[:-1]))


def main() -> int:
    """Read the arguments, check, print, return the exit code."""
    parser = argparse.ArgumentParser(description="Check an erasure certificate offline.")
    parser.add_argument("bundle", type=Path, metavar="FILE.zip")
    parser.add_argument("--trust", type=Path, help="trust.json, from the issuer and not from the bundle")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the model's files, to compare")
    parser.add_argument("--at", type=datetime.fromisoformat, metavar="TIME", help="as of then (UTC)")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        trust = loads(chosen.trust.read_bytes()) if chosen.trust else None
        data = chosen.bundle.read_bytes()
    except (OSError, ValueError) as reason:
        parser.error(f"unreadable: {reason}")  # which ends with 2
    report = check(data, trust, model=chosen.model, at=chosen.at)
    print(json.dumps(vars(report), indent=1) if chosen.json else report.to_text())
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
