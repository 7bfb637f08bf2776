"""Check an erasure certificate offline. One file: Python 3.11 and `cryptography`.

    python check.py FILE.zip --trust trust.json [--status FILE] [--model DIR] [--at TIME] [--json]

Twelve numbered steps, listed in `check`. Exit: 0 valid, 1 invalid, 2 unreadable, 3 consistent but nobody
authenticated (no --trust), 4 status stale or missing, 5 revoked. The answer is worth as much as this file
and the trust file: get both from elsewhere. Over 400 lines, as it checks a log, a list of revocations and
a list of versions, and asks no program.
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

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

VALID, INVALID, UNREADABLE, UNAUTHENTICATED, STATUS_STALE, REVOKED = range(6)
RESULTS = "valid", "invalid", "unreadable", "consistent, issuer not authenticated", "status stale", "revoked"
CERTIFICATE, SIGSTORE, MANIFEST = "certificate.dsse.json", "certificate.sigstore.json", "manifest.json"
HOWTO, OPENING, PROOF = "HOWTO-VERIFY.md", "opening.json", "certificate.tlog-proof"
PUBLICATION, PUBLICATION_PROOF = "publication.dsse.json", "publication.tlog-proof"
CONTINUITY, STATUS = "continuity.json", "status.dsse.json"
STAMP, MODEL_SIGNATURE = "timestamp.tsr", "model.sig"
REQUIRED, PUBLISHED = {CERTIFICATE, SIGSTORE, MANIFEST}, {PUBLICATION, PUBLICATION_PROOF, CONTINUITY}
OPTIONAL = {HOWTO, OPENING, PROOF, *PUBLISHED, STATUS, MODEL_SIGNATURE, STAMP}
MEMBER_BYTES_MAX, BUNDLE_BYTES_MAX, SKEW_MAX = 16 << 20, 64 << 20, timedelta(minutes=5)  # of two clocks
STATUS_MAX = timedelta(days=7)  # or a key that was stolen after its end could promise for ever
TYPES = "https://lethe.example/attestation/"
PREDICATE_TYPE = TYPES + "erasure-certificate/v1"
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
KEY = {"keyid": HEX, "algorithm": TEXT, "pem": r"[\n -~]+", "notBefore": (TIME,), "notAfter": (TIME,),
       "notTrustedAfter": (TIME,)}
TRUST = {"issuer": TEXT, "keys": [KEY], "log": ({"policy": r"[\t\n -~]{1,99999}"},), "status": (TEXT,),
         "tsa": (r"[\n -~]+",)}
LISTED = {"producedOn": TIME, "nextUpdate": TIME,
          "revoked": [{"certificateId": URN, "reason": "[a-z-]+", "since": TIME}]}
VERSION = {"model": TEXT, "erasureEpoch": int, "cumulative": {"root": HEX, "size": int}, "publishedOn": TIME,
           "forms": [{"form": TEXT, **OF}], "replicas": {"count": int, "attestationsRoot": HEX},
           "previous": [{**OF, "state": "quarantined", "role": "served|anchor", "destroyBy": (DAY,)}],
           "reaudit": ({"unit": "sentinel", "checked": int, "failed": int},)}
CONTINUED = {"version": "lethe/continuity/1", "certificateId": URN, "index": int, "inclusion": [HEX],
             "consistency": [HEX]}
HASH, COUNT = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", "0|[1-9][0-9]{0,18}"
RECORD = {"canonicalSha256": HEX, "nonce": HEX, "index": int, "proof": [HEX]}
OPENED = {"version": "lethe/opening/1", "certificateId": URN, "paeSha256": HEX,
          "request": {"id": TEXT, "nonce": HEX}, "records": [RECORD]}
TENSOR = {"dtype": "[A-Z0-9_]+", "shape": [int], "data_offsets": [int]}
# fmt: on
Outcome = tuple[str, str, Any]  # of a step: its state, what it found, what the later steps use


class Refused(ValueError):  # noqa: N818  it is named for what it tells the caller
    """A refusal with an exit code of its own, beside its words."""


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
                if isinstance(reason, Refused):
                    self.exit_code, detail = reason.args
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


def check(
    data: bytes,
    trust: Any = None,
    *,
    model: Path | None = None,
    at: datetime | None = None,
    status: Any = None,
) -> Report:
    """Check a bundle against the content of a trust file; `model` is a directory, `at` defaults to now.

    `status` are the bytes of another status statement than the bundle's: it is enough to be in one list.
    """
    report, now = Report(exit_code=UNAUTHENTICATED if trust is None else VALID), at or datetime.now(UTC)
    latest = instant(now.replace(tzinfo=now.tzinfo or UTC) + SKEW_MAX)
    keys = report.attempt(1, "trust", read_trust, trust)
    members = report.attempt(2, "bundle", read_bundle, data) or {}
    signed: Any = report.attempt(3, "signatures", check_signatures, members, keys) or (b"", "", {})
    statement = report.attempt(4, "statement", check_statement, signed[0], trust)
    report.attempt(5, "subjects", check_subjects, statement, members, model)
    seen = report.attempt(6, "log", check_log, statement, signed[1], members, trust)
    report.attempt(7, "publication", check_publication, statement, members, keys, trust, latest)
    report.attempt(8, "status", check_status, statement, members, keys, trust, status, latest)
    stamp = report.attempt(10, "timestamps", check_stamps, members, signed[2], trust)  # step 9 may need it
    report.attempt(9, "time", check_time, statement, signed[2], seen or stamp or {}, latest)
    report.steps.sort(key=lambda step: int(step["number"]))
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
        return (
            "passed",
            f"{len(sizes)} members ({HOWTO} and {MODEL_SIGNATURE} not covered)",
            {n: archive.read(n) for n in sizes},
        )


def check_signatures(members: dict[str, bytes], keys: dict[str, Any] | None) -> Outcome:
    """3. Signatures: one trusted key of each algorithm over the PAE; the Sigstore copy says the same."""
    payload, identity, signed = open_envelope(members[CERTIFICATE], keys, CERTIFICATE)
    if keys is None:
        return "not checked", f"no trusted keys; {SIGSTORE} not compared", (payload, identity, {})
    copy = loads(members[SIGSTORE], compact=True)
    stamp = copy["verificationMaterial"].pop("timestampVerificationData", None)
    if copy != sigstore(payload, signed[P256][0], signed[P256][0]["keyid"]):
        raise ValueError(f"{SIGSTORE} is not the same statement with the {P256} signature alone")
    if stamp is not None:
        fits(stamp, {"rfc3161Timestamps": [{"signedTimestamp": BASE64}]}, SIGSTORE)
        signed["stamps"] = [base64.b64decode(each["signedTimestamp"]) for each in stamp["rfc3161Timestamps"]]
    return "passed", f"{ED25519} and {P256}, paeSha256 {identity}", (payload, identity, signed)


def open_envelope(data: bytes, keys: Any, where: str) -> tuple[bytes, str, dict[str, Any]]:
    """Return payload, identity and signatures by algorithm; both are demanded if there are trusted keys."""
    envelope = loads(data, compact=True)
    fits(envelope, ENVELOPE, where)
    payload, signed = base64.b64decode(envelope["payload"]), dict[str, Any]()
    for each in envelope["signatures"]:
        if each["keyid"] in (keys or {}):  # any other counts for nothing
            key, scheme, entry = keys[each["keyid"]]
            if entry["algorithm"] in signed:
                raise ValueError(f"two {entry['algorithm']} signatures in {where}, and a key counts once")
            key.verify(base64.b64decode(each["sig"]), pae(payload), *scheme)  # raises InvalidSignature
            signed[entry["algorithm"]] = each, entry
    if keys is not None and (missing := {ED25519, P256} - set(signed)):
        raise ValueError(f"no signature by a trusted key: {', '.join(sorted(missing))}")
    return payload, sha256(pae(payload)).hex(), signed


def pae(payload: bytes) -> bytes:
    """Return what is signed: type and payload, each behind its length."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sigstore(payload: bytes, signature: Any, hint: str) -> dict[str, Any]:
    """Return the Sigstore bundle v0.3 of a payload with one signature."""
    text = base64.b64encode(payload).decode()
    envelope = {"payload": text, "payloadType": PAYLOAD_TYPE, "signatures": [signature]}
    material = {"publicKey": {"hint": hint}, "tlogEntries": []}
    kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
    return {"mediaType": kind, "dsseEnvelope": envelope, "verificationMaterial": material}


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
    digest, said = sha256(members[MANIFEST]).hex(), statement["predicate"]["model"]
    if subjects[:1] != [(MANIFEST, digest)]:
        raise ValueError(f"the certificate is about another model than that of manifest {digest}")
    entries = [(each["annotations"], each["digest"]) for each in loads(members[MANIFEST])["layers"]]
    layers = [(notes["org.cncf.model.filepath"], digest.removeprefix("sha256:")) for notes, digest in entries]
    if subjects[1:] != layers or len(dict(layers)) != len(layers):
        raise ValueError("the layers of the manifest are not the files of the certificate")
    if said.get("omsRoot") not in (None, sha256(*(bytes.fromhex(each) for _, each in sorted(layers))).hex()):
        raise ValueError("omsRoot is not that of the files")
    if model is None:
        return "passed", f"manifest {digest}, {len(layers)} files (no --model to compare with)", None
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
    if root.hex() != said["tensorRoot"]:
        raise ValueError("the tensors are not the certified ones")
    return "passed", f"manifest {digest}, all {len(layers)} files and tensor root as in the model", None


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
    subject = statement["subject"][0]["digest"]["sha256"]
    return "passed", *logged("erasure-certificate/v1", pae_sha256, subject, members, PROOF, trust)


def logged(
    kind: str, pae_sha256: str, subject: str, members: Any, member: str, trust: Any
) -> tuple[str, Any]:
    """Return where in the log a statement stands, and who saw it when."""
    if member not in members:
        raise ValueError(f"not logged: the trust file names a log, and the bundle holds no {member}")
    form = rf"c2sp[.]org/tlog-proof@v1\nindex ({COUNT})((?:\n{HASH})*)\n\n((?s:.+))"
    index, path, note = parts(form, members[member].decode(), member)
    origin, size, root, seen = open_checkpoint(note, *read_policy(trust["log"]["policy"]))
    entry = f'{{"kind":"{kind}","paeSha256":"{pae_sha256}","subject":"{subject}"}}'  # RFC 8785
    leaf = sha256(b"\0", entry.encode())
    if inclusion_root(int(index), size, leaf, [base64.b64decode(each) for each in path.split()]) != root:
        raise ValueError(f"{kind} is not entry {index} of the {size} that {origin} has signed")
    by = f"{', '.join(sorted(seen)) or 'nobody'}{' (an operator-signed log)' * (len(seen) < 2)}"
    return f"entry {index} of {size} in {origin}, cosigned by {by}", seen


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


def check_publication(statement: Any, members: Any, keys: Any, trust: Any, latest: str) -> Outcome:
    """7. Publication: this version or a later one of the line was served, and honours this certificate."""
    mine, urn = statement["predicate"]["model"], statement["predicate"]["certificateId"]
    if keys is None or not (PUBLISHED & set(members) or status_list(statement, trust)):
        return "not checked", "this issuer states no publication" if trust else "no trusted keys", None
    if missing := {PUBLICATION, CONTINUITY} - set(members):
        raise ValueError(f"not published: the bundle holds no {', '.join(sorted(missing))}")
    said, subject, identity, signed = open_statement(members[PUBLICATION], keys, "publication/v1", VERSION)
    version, seen, where = subject["digest"]["sha256"], dict[str, int](), f"{PUBLICATION_PROOF} not covered"
    if trust.get("log"):
        where, seen = logged("publication/v1", identity, version, members, PUBLICATION_PROOF, trust)
    timely(signed, said["publishedOn"], seen, latest)
    epochs, same = said["erasureEpoch"] - mine["erasureEpoch"], subject == statement["subject"][0]
    if (subject["name"], said["model"]) != (MANIFEST, mine["line"]) or epochs < (not same):
        raise ValueError(f"version {version} of {said['model']} is not this one or a later one of the line")
    shown, (size, root) = loads(members[CONTINUITY]), (said["cumulative"][name] for name in ("size", "root"))
    fits(shown, CONTINUED, CONTINUITY)
    paths = [list(map(bytes.fromhex, shown[name])) for name in ("inclusion", "consistency")]
    found = inclusion_root(shown["index"], size, sha256(b"\0", urn.encode()), paths[0]).hex()
    if (shown["certificateId"], found) != (urn, root):
        raise ValueError(f"version {version} does not list this certificate among those it honours")
    if before := mine.get("cumulative"):
        roots = consistency_roots(before["size"], size, bytes.fromhex(before["root"]), paths[1])
        if [each.hex() for each in roots] != [before["root"], root]:
            raise ValueError(f"version {version} dropped something that this one honoured")
    elif paths[1]:
        raise ValueError("a proof of consistency with nothing")
    which = "this version" if epochs == 0 else f"version {version}, {epochs} erasure epochs later,"
    return "passed", f"{which} was made live on {said['publishedOn']}; {where}", None


def status_list(statement: Any, trust: Any) -> Any:
    """Return where revocations are listed, by the certificate's word or the trust file's."""
    return statement["predicate"]["status"]["list"] or (trust or {}).get("status")


def check_status(statement: Any, members: Any, keys: Any, trust: Any, newer: Any, latest: str) -> Outcome:
    """8. Status: a fresh statement of the issuer, which does not list the certificate."""
    given = [each for each in (members.get(STATUS), newer) if each is not None]
    if keys is None or not (given or status_list(statement, trust)):
        return "not checked", "this issuer keeps no list of revocations" if trust else "no trusted keys", None
    issuer, valid = trust["issuer"], ("", "")
    about = {"name": issuer, "digest": {"sha256": sha256(issuer.encode()).hex()}}
    for each in given:
        said, subject, _, signed = open_statement(each, keys, "certificate-status/v1", LISTED)
        timely(signed, said["producedOn"], {}, latest)
        longest = instant(datetime.fromisoformat(said["producedOn"]) + STATUS_MAX)
        if subject != about or said["nextUpdate"] > longest:
            raise ValueError(f"a status statement of {subject['name']}, or for over {STATUS_MAX.days} days")
        for entry in said["revoked"]:
            if entry["certificateId"] == statement["predicate"]["certificateId"]:
                raise Refused(REVOKED, f"revoked since {entry['since']}: {entry['reason']}")
        valid = max(valid, (said["producedOn"], said["nextUpdate"]))
    if valid[1] <= instant(datetime.fromisoformat(latest) - SKEW_MAX):
        old = f"the newest status was due until {valid[1]}" if given else "there is no status statement"
        raise Refused(STATUS_STALE, f"{old}; get one from {status_list(statement, trust)} for --status")
    return "passed", f"not listed; valid as of {valid[0]}, next update {valid[1]}", None


def instant(at: datetime) -> str:
    """Return a time in the one form in which all are written, so that texts compare as times do."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def open_statement(data: bytes, keys: Any, kind: str, shape: Any) -> tuple[Any, Any, str, dict[str, Any]]:
    """Return predicate, subject, identity and signatures of a statement about one thing."""
    payload, identity, signed = open_envelope(data, keys, kind)
    statement = loads(payload)
    fits(statement, {**STATEMENT, "predicateType": re.escape(TYPES + kind), "predicate": shape}, kind)
    [subject] = statement["subject"]
    return statement["predicate"], subject, identity, signed


def timely(signed: dict[str, Any], stated: str, seen: dict[str, int], latest: str) -> list[str]:
    """Refuse unless all keys counted at each of these moments; return when others saw it, first to last."""
    times = [instant(datetime.fromtimestamp(at, UTC)) for at in sorted(seen.values())]
    keys = [signed[algorithm][1] for algorithm in (ED25519, P256) if algorithm in signed]
    limits = [("", latest), *((key.get("notBefore"), key.get("notAfter")) for key in keys)]
    for moment in [stated, *times]:
        for begin, end in limits:
            if not (begin or moment) <= moment <= (end or moment):
                raise ValueError(f"signed on {moment}, not from {begin or 'ever'} to {end or 'ever'}")
    for end in filter(None, (key.get("notTrustedAfter") for key in keys)):
        if not times or times[0] > end:
            raise ValueError(f"a key is not trusted after {end}, and nobody independent saw this before")
    return times


def check_stamps(members: dict[str, bytes], signed: dict[str, Any], trust: Any) -> Outcome:
    """10. Time stamps: RFC 3161 tokens over both signatures, by an authority that the trust file names."""
    tokens = [(members[STAMP], ED25519)] if STAMP in members else []
    tokens += [(each, P256) for each in signed.get("stamps", [])]
    if not tokens:
        return "not checked", "no RFC 3161 time stamp and no replay", None
    if not signed or not trust.get("tsa"):
        return "not checked", f"{len(tokens)} RFC 3161 time stamps by an authority that is not trusted", None
    try:
        import rfc3161_client  # noqa: PLC0415  the one step that needs it, and says so
    except ImportError:
        command = f"openssl ts -verify -in {STAMP} -data ED25519.sig -CAfile tsa.pem"
        return "not checked", f"present; `pip install rfc3161-client`, or {command}", None
    roots, times = x509.load_pem_x509_certificates(trust["tsa"].encode()), []
    verifier = rfc3161_client.VerifierBuilder(roots=roots).build()
    for token, algorithm in tokens:
        response = rfc3161_client.decode_timestamp_response(token)
        verifier.verify_message(response, base64.b64decode(signed[algorithm][0]["sig"]))
        times.append(int(response.tst_info.gen_time.timestamp()))
    return "passed", f"{len(tokens)} RFC 3161 tokens by the trusted authority", {"RFC 3161": max(times)}


def check_time(statement: Any, signers: dict[str, Any], seen: dict[str, int], latest: str) -> Outcome:
    """9. Time: not of the future, and both keys counted when it was signed and when others saw it."""
    text, by = statement["predicate"]["issuedOn"], ", ".join(sorted(seen))
    ends = timely(signers, text, seen, latest)
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
    older = predicate.get("supersedes") or "no other"  # an identity: the older certificate's paeSha256
    return "passed", f"level {level}, execution {assurance['execution']}, supersedes {older}", claim


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


def consistency_roots(first: int, second: int, old: bytes, proof: Any, whole: int = 1) -> tuple[bytes, bytes]:
    """Return both roots to which a proof leads: the definition of SUBPROOF (RFC 6962, 2.1.2) backwards."""
    if not 0 < first <= second or (len(proof) != 1 - whole if first == second else not proof):
        raise ValueError("a proof has not the form of its path")
    if first == second:
        return (old, old) if whole else (proof[0], proof[0])
    k, last = 1 << ((second - 1).bit_length() - 1), proof[-1]
    if first <= k:
        begun, grown = consistency_roots(first, k, old, proof[:-1], whole)
        return begun, sha256(b"\1", grown, last)
    begun, grown = consistency_roots(first - k, second - k, old, proof[:-1], 0)
    return sha256(b"\1", last, begun), sha256(b"\1", last, grown)


def main() -> int:
    """Read the arguments, check, print, return the exit code."""
    parser = argparse.ArgumentParser(description="Check an erasure certificate offline.")
    parser.add_argument("bundle", type=Path, metavar="FILE.zip")
    parser.add_argument("--trust", type=Path, help="trust.json, from the issuer and not from the bundle")
    parser.add_argument("--status", type=Path, metavar="FILE", help="a newer status than the bundle's")
    parser.add_argument("--model", type=Path, metavar="DIR", help="the model's files, to compare")
    parser.add_argument("--at", type=datetime.fromisoformat, metavar="TIME", help="as of then (UTC)")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    try:
        data, trust = chosen.bundle.read_bytes(), loads(chosen.trust.read_bytes()) if chosen.trust else None
        status = chosen.status.read_bytes() if chosen.status else None
    except (OSError, ValueError) as reason:
        parser.error(f"unreadable: {reason}")  # which ends with 2
    report = check(data, trust, model=chosen.model, status=status, at=chosen.at)
    print(json.dumps(vars(report), indent=1) if chosen.json else report.to_text())
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
