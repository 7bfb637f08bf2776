"""One key takes the place of another: overlapping, cross-signed, and for ever in the list.

    time ────────────────────────▶
    old   ══signs══╪· · grace · ·┤ notAfter: what it signed last is witnessed meanwhile
    new            ╪══signs══════════════

For each key there is a statement `key/v1`, signed by the pair that signed before (and by the new pair,
which so shows that it has the private half): whoever trusts the old keys can follow to the new ones.
The statements lie in the key directory and are logged. The private half of an old file is gone with
the change; its public half stays, and what it signed is judged as of then.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from app.signing import envelope, keys, statements
from app.signing.envelope import ALGORITHMS, Envelope
from app.signing.keys import KeyUnusable, PublicKey, PublishedSigner

KEY: Final = "key/v1"
FOLDER = "key_statements"
GRACE = timedelta(days=7)
"""How long an old key still counts: time enough to log what it signed last."""
NEXT = ".next"


def rotate(
    directory: Path,
    *,
    issuer: str,
    at: datetime,
    algorithms: Iterable[str] = ALGORITHMS,
    services: Mapping[str, tuple[str, PublicKey]] | None = None,
    grace: timedelta = GRACE,
) -> list[PublicKey]:
    """Put new keys in the place of those that sign; return the new public halves.

    `services` names by algorithm the URI of a key that lies elsewhere, and its public half. Killed
    anywhere, the old keys go on signing or the new ones do, and both are listed.

    Raises:
        KeyUnusable: a key service does not sign, or the keys of now cannot sign for the new ones.
    """
    old = keys.open_signers(directory)
    new = [_prepared(directory, each, dict(services or {}).get(each), at=at) for each in algorithms]
    pair = {signer.algorithm: signer for signer in [*old, *new]}
    for signer in new:
        before = next(each for each in old if each.algorithm == signer.algorithm)
        said = _statement(signer.public, issuer=issuer, at=at, not_before=at, predecessor=before.keyid)
        _write(directory, signer.keyid, _cross_signed(said, [*old, *pair.values()]))
    ended = {each.keyid for each in old} - {each.keyid for each in pair.values()}
    listed = [
        replace(key, not_after=min(key.not_after or at + grace, at + grace)) if key.keyid in ended else key
        for key in keys.public_keys(directory)
    ]
    added = [replace(signer.public, not_before=at.replace(microsecond=0)) for signer in new]
    keys.publish(directory, [*listed, *added])
    _take_over(directory, new, dict(services or {}))
    return added


def distrust(directory: Path, keyid: str, *, issuer: str, after: datetime, at: datetime) -> PublicKey:
    """Say that a key counts only for what somebody independent saw before `after`; return it.

    Raises:
        KeyUnusable: there is no such key, or it is one that signs now: rotate first.
    """
    signers = keys.open_signers(directory)
    if keyid in {each.keyid for each in signers}:
        raise KeyUnusable("this key signs now; rotate it first, then distrust it")
    listed = {key.keyid: key for key in keys.public_keys(directory)}
    if keyid not in listed:
        raise KeyUnusable(f"there is no key {keyid} in {keys.PUBLIC_FILE}")
    said = replace(listed[keyid], not_trusted_after=after)
    payload = _statement(said, issuer=issuer, at=at, not_before=said.not_before, predecessor=None)
    _write(directory, f"{keyid}.distrusted", _cross_signed(payload, signers))
    keys.publish(directory, [said if each.keyid == keyid else each for each in listed.values()])
    return said


def introduce(directory: Path, *, issuer: str, at: datetime, others: Sequence[PublicKey] = ()) -> None:
    """State the keys of now where nothing was stated yet; `others` are keys that sign checkpoints alone."""
    signers = keys.open_signers(directory)
    begun = {key.keyid: key.not_before for key in keys.public_keys(directory)}
    for each in [*(signer.public for signer in signers), *others]:
        if not (directory / FOLDER / f"{each.keyid}.dsse.json").exists():
            use = "checkpoints" if each in others else "statements"
            said = _statement(
                each, issuer=issuer, at=at, not_before=begun.get(each.keyid, at), predecessor=None, use=use
            )
            _write(directory, each.keyid, _cross_signed(said, signers))


def stated(directory: Path) -> list[Envelope]:
    """Return every statement about a key, in the order in which they were made."""
    found = [envelope.decode(path.read_bytes()) for path in (directory / FOLDER).glob("*.dsse.json")]
    return sorted(found, key=lambda each: _said(envelope.payload_of(each))["predicate"]["statedOn"])


def subject(payload: bytes) -> str:
    """Return the key that a statement is about."""
    return str(_said(payload)["subject"][0]["digest"]["sha256"])


def followed(trusted: Sequence[PublicKey], found: Iterable[Envelope]) -> list[PublicKey]:
    """Return the keys that one may trust who trusts these: each vouched for by a pair that was trusted.

    Raises:
        EnvelopeRefused: a statement by trusted keys is malformed.
    """
    known = {key.keyid: key for key in trusted}
    waiting = list(found)
    while True:
        vouched = [each for each in waiting if _vouched(each, known)]
        if not vouched:
            return list(known.values())
        for each in vouched:
            waiting.remove(each)
            said = _said(envelope.payload_of(each))["predicate"]
            if said["use"] == "statements":
                key = PublicKey.from_json({name: said[name] for name in said.keys() & _LISTED})
                if key.keyid not in known or key.not_trusted_after:  # a warning is never taken back
                    known[key.keyid] = key


_LISTED = {"keyid", "algorithm", "pem", "notBefore", "notAfter", "notTrustedAfter"}


def _vouched(found: Envelope, known: Mapping[str, PublicKey]) -> bool:
    """Return whether a pair of known keys signed, not counting the key that the statement is about."""
    about = subject(envelope.payload_of(found))
    signed = set(envelope.signatures_of(found)) - {about}
    if not set(ALGORITHMS) <= {known[each].algorithm for each in signed if each in known}:
        return False
    envelope.verify(found, [key for keyid, key in known.items() if keyid != about])
    return True


def _statement(
    key: PublicKey,
    *,
    issuer: str,
    at: datetime,
    not_before: datetime | None,
    predecessor: str | None,
    use: str = "statements",
) -> bytes:
    said = replace(key, not_before=not_before).to_json()
    more = {"issuer": issuer, "use": use, "predecessor": predecessor, "statedOn": statements.instant(at)}
    return statements.build(KEY, name="key", sha256=key.keyid, predicate={**said, **more})


def _cross_signed(payload: bytes, signers: Sequence[PublishedSigner]) -> bytes:
    """Return the envelope, signed by every one of these once."""
    message = envelope.pae(envelope.PAYLOAD_TYPE, payload)
    once = {each.keyid: each for each in signers}
    return envelope.encode(
        envelope.unsigned(payload)
        | {"signatures": [envelope.signature(each, message) for each in once.values()]}
    )


def _prepared(
    directory: Path, algorithm: str, service: tuple[str, PublicKey] | None, *, at: datetime
) -> PublishedSigner:
    """Return the signer that is to take over; a file's lies beside the old one until then."""
    if service is None:
        path = directory / f"{keys.PRIVATE_FILES[algorithm]}{NEXT}"
        path.unlink(missing_ok=True)  # of a rotation that was killed before anybody heard of its key
        keys.write_private(path, keys.made(algorithm))
        return keys.open_file(path)
    uri, public = service
    if public.algorithm != algorithm:
        raise KeyUnusable(f"the key at the URI is for {public.algorithm}, not for {algorithm}")
    signer = keys.open_signer(uri, public, secrets=directory)
    signer.sign(f"lethe tries this key, {statements.instant(at)}".encode())
    return signer


def _take_over(
    directory: Path, new: Sequence[PublishedSigner], services: Mapping[str, tuple[str, PublicKey]]
) -> None:
    elsewhere = keys.signer_uris(directory)
    for signer in new:
        algorithm = signer.algorithm
        private = directory / keys.PRIVATE_FILES[algorithm]
        if algorithm in services:
            elsewhere[algorithm] = services[algorithm][0]
            continue
        elsewhere.pop(algorithm, None)
        private.with_name(private.name + NEXT).replace(private)
    if elsewhere or (directory / keys.SIGNERS_FILE).exists():
        _replace(directory / keys.SIGNERS_FILE, json.dumps(elsewhere, indent=1).encode() + b"\n")
    for algorithm in services:
        (directory / keys.PRIVATE_FILES[algorithm]).unlink(missing_ok=True)


def _write(directory: Path, name: str, content: bytes) -> None:
    (directory / FOLDER).mkdir(mode=0o755, exist_ok=True)
    _replace(directory / FOLDER / f"{name}.dsse.json", content)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(path)


def _said(payload: bytes) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(payload)
    return said
