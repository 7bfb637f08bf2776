"""That a version went live: what it honours, who serves it, what of before is still there.

    publication/v1     about the manifest of the version, stated with the very change that makes it live
    continuity.json    that a certificate is in the list that the version honours, and that nothing which
                       the certificate's own version honoured was dropped from it

The list of a version is that of the version served before it, then what was certified on it, in order of
issue; a leaf is ASCII `urn:uuid:...`. It follows what is served, not the parent of the weights: engines
start again from an anchor. Pure: facts in, bytes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal
from uuid import UUID

from app.certificates import check, statement
from app.signing import canonical, statements
from app.transparency import tree

KIND: Final = "publication/v1"
CONTINUITY_VERSION = "lethe/continuity/1"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A version of before whose weights are still there, readable by nobody who serves."""

    manifest: str
    role: Literal["served", "anchor"]
    destroy_by: date | None
    """None: no day was set."""


@dataclass(frozen=True, kw_only=True)
class Reaudit:
    """How many sentinels of earlier batches were looked for on this version, and found again."""

    checked: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class PublicationFacts:
    """Everything a publication states."""

    line: str
    manifest: str
    erasure_epoch: int
    honoured: Sequence[UUID]
    published_at: datetime
    forms: Sequence[str]
    attestations: Sequence[Mapping[str, Any]]
    """Each replica's signed word that it serves this version."""
    previous: Sequence[Kept] = ()
    reaudit: Reaudit | None = None


def build(facts: PublicationFacts) -> bytes:
    """Return the payload of the statement."""
    attested = sorted(tree.leaf_hash(canonical.encode(each)) for each in facts.attestations)
    reaudit = facts.reaudit
    return statements.build(
        KIND,
        name=check.MANIFEST,
        sha256=facts.manifest,
        predicate={
            "model": facts.line,
            "erasureEpoch": facts.erasure_epoch,
            "cumulative": statement.cumulative(facts.honoured),
            "publishedOn": statements.instant(facts.published_at),
            "forms": [{"form": form, "digest": {"sha256": facts.manifest}} for form in sorted(facts.forms)],
            "replicas": {"count": len(attested), "attestationsRoot": tree.root(attested).hex()},
            "previous": [
                {
                    "digest": {"sha256": each.manifest},
                    "state": "quarantined",
                    "role": each.role,
                    "destroyBy": None if each.destroy_by is None else each.destroy_by.isoformat(),
                }
                for each in facts.previous
            ],
            "reaudit": None
            if reaudit is None
            else {"unit": "sentinel", "checked": reaudit.checked, "failed": reaudit.failed},
        },
    )


def continuity(certificate_id: UUID, *, size: int | None, honoured: Sequence[UUID]) -> dict[str, Any]:
    """Return the content of `continuity.json`; `size` is that of the list in the certificate itself.

    Raises:
        ValueError: the list does not hold the certificate.
    """
    leaves = [tree.leaf_hash(statement.urn(each).encode()) for each in honoured]
    index = list(honoured).index(certificate_id)
    consistency = [] if size is None else tree.consistency_proof(leaves, size)
    return {
        "version": CONTINUITY_VERSION,
        "certificateId": statement.urn(certificate_id),
        "index": index,
        "inclusion": [each.hex() for each in tree.inclusion_proof(leaves, index)],
        "consistency": [each.hex() for each in consistency],
    }
