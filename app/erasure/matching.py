"""From whom a caller names to the records and models that a request concerns.

Identifiers become keyed hashes in the first line that sees them; what cannot be read or is unknown is
told by its place alone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from app.erasure import exemptions
from app.erasure.repository import ErasureRequests
from app.errors import Invalid, NotFound
from app.http import ids
from app.records import content
from app.records import service as records
from app.records.service import Match
from app.registry import service as registry
from app.storage.database import Session
from app.tables import ErasureRequest

TRAINED_ARM = "train"


@dataclass(frozen=True, kw_only=True)
class Identifier:
    """What a person is known by, as the caller gave it; it lives as long as the call."""

    type: str
    value: str
    hashed: bool = False
    """Whether the value is the SHA-256 of the normalised one, as other systems hand it on."""

    def __repr__(self) -> str:
        """Show the kind alone."""
        return f"Identifier(type={self.type!r})"


@dataclass(frozen=True, kw_only=True)
class NamedRecords:
    """Records by the ids that their dataset gives them."""

    dataset: str
    """Its name or its public id."""
    external_ids: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What records say, by the SHA-256 of their canonical bytes, and the key of their hashes."""

    sha256: Sequence[bytes]
    key: bytes

    def macs(self) -> list[bytes]:
        """Return the keyed hashes by which records of these contents are found."""
        return sorted({content.content_mac_of_digest(self.key, each) for each in self.sha256})

    def __repr__(self) -> str:
        """Show how many: a digest of what somebody said is as good as what they said, to who guesses."""
        return f"Contents({len(self.sha256)})"


@dataclass(frozen=True, kw_only=True)
class RecordSet:
    """What a request concerns, and the hash that stands for exactly this."""

    records: tuple[tuple[int, UUID], ...]
    exempt: tuple[str | None, ...]
    """Of each record in turn: on which ground it is kept."""
    models: tuple[UUID, ...]
    hash: bytes

    @property
    def grounds(self) -> frozenset[str]:
        """Return the grounds on which records of it are kept."""
        return frozenset(ground for ground in self.exempt if ground is not None)


def macs(key: bytes, identifiers: Sequence[Identifier]) -> list[bytes]:
    """Return the keyed hashes of a person's identifiers; Invalid names the place of an unreadable one."""
    hashed = []
    for index, identifier in enumerate(identifiers):
        mac = content.subject_mac_of_digest if identifier.hashed else content.subject_mac
        try:
            hashed.append(mac(key, identifier.type, identifier.value))
        except Invalid as error:
            raise Invalid(
                "an identifier cannot be read", errors=[(f"/subject/{index}/value", error.code)]
            ) from None
    return sorted(set(hashed))


def named(session: Session, given: NamedRecords) -> list[int]:
    """Return the rows of records that a caller named; what is unknown is told by its position."""
    return [match.id for match in named_matches(session, given)]


def named_matches(session: Session, given: NamedRecords) -> Sequence[Match]:
    """Return the records that a caller named; what is unknown is told by its position."""
    try:
        dataset = (
            records.read(session, ids.decode("ds", given.dataset))
            if given.dataset.startswith("ds_")
            else records.named(session, given.dataset)
        )
    except NotFound:
        raise Invalid("there is no such dataset", errors=[("/records/dataset", "unknown")]) from None
    return records.locate_named(session, dataset.id, given.external_ids)


def models_that_know(session: Session, found: Iterable[Collection[Match]]) -> Mapping[int, Sequence[UUID]]:
    """Return, of each record that may have been trained on, the models that know it."""
    learned = {match.id for matches in found for match in matches if match.arm == TRAINED_ARM}
    return registry.that_know_each(session, learned)


def new_set(matches: Collection[Match], known: Mapping[int, Sequence[UUID]]) -> RecordSet:
    """Return what a new request concerns: nothing of it was approved before, and nothing is exempt."""
    rows = {match.id: match.dataset_id for match in matches}
    models = {model_id for id_ in rows for model_id in known.get(id_, ())}
    return _bound(rows, {}, models)


def record_set(session: Session, request: ErasureRequest) -> RecordSet:
    """Return what the request concerns now: what it named before, and what its person has since got.

    What was approved stays in it: another request may have erased the same records meanwhile, and
    this one is still owed its own answer.
    """
    requests = ErasureRequests(session)
    approved = [target.model_id for target in requests.targets([request.id])]
    named = requests.records(request.id)
    exempt = {row.id: row.exempt for row in named}
    rows = {row.id: (row.dataset_id, row.arm) for row in named if approved or row.erased_at is None}
    found = [
        *records.locate(session, [bytes(mac) for mac in request.subject_macs]),
        *records.locate_contents(session, [bytes(mac) for mac in request.content_macs]),
    ]
    rows |= {match.id: (match.dataset_id, match.arm) for match in found}
    learned = [id_ for id_, (_, arm) in rows.items() if arm == TRAINED_ARM and exempt.get(id_) is None]
    models = {*approved, *(model.id for model in registry.that_know(session, learned))}
    return _bound({id_: dataset_id for id_, (dataset_id, _) in rows.items()}, exempt, models)


def _bound(rows: Mapping[int, UUID], exempt: Mapping[int, str | None], models: Collection[UUID]) -> RecordSet:
    """Return the set of these records and models, bound by its hash."""
    return RecordSet(
        records=tuple(sorted(rows.items())),
        exempt=tuple(exempt.get(id_) for id_ in sorted(rows)),
        models=tuple(sorted(models)),
        hash=content.record_set_hash(
            [ids.encode("mdl", model_id) for model_id in sorted(models)],
            [
                (ids.encode("ds", dataset_id), f"rec_{id_}", exemptions.action(exempt.get(id_)))
                for id_, dataset_id in rows.items()
            ],
        ),
    )
