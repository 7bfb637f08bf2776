"""What callers say of requests: it may be personal, and is wrapped until it is sealed or hashed."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.erasure import policy
from app.erasure.exemptions import Exemption, ExtensionReason, Ground, HoldReason
from app.erasure.steps import Notice
from app.http.ids import (
    ModelId,
    RequestId,
)
from app.records import content
from app.records.service import RECORD_IDS_MAX

IDENTIFIERS_MAX = 20
TEXT_MAX = 4000
STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
HOLD_DAYS_MAX = policy.load("default").hold_days_longest

IdentifierType = Annotated[str, StringConstraints(pattern=content.TYPE_PATTERN)]


def _encodable(text: SecretStr) -> SecretStr:
    """Refuse half a character: JSON can spell one, and no bytes can."""
    try:
        text.get_secret_value().encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "no Unicode") from None
    return text


Text = Annotated[SecretStr, Field(min_length=1, max_length=TEXT_MAX), AfterValidator(_encodable)]
"""What somebody wrote; sealed, and shown to nobody without `requests:read_pii`."""
RecordIdText = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,256}$")]
RecordId = Annotated[str, StringConstraints(pattern=r"^rec_[1-9][0-9]{0,17}$")]
Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:/#-]{1,128}$")]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def example(*bodies: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a body that comes in, with examples for the OpenAPI document."""
    return ConfigDict(**STRICT, json_schema_extra={"examples": list(bodies)})


HASH = "f91e70740ddf85be2c7c568ed55b8f2ac1382a1aada5d0f1577ab440a7d79aea"
REQUEST, MODEL = "er_01kaj9hm2qf8ps6g9xqj4w0v7d", "mdl_01kaj9e40meq5td0e5ys0t93rc"
NOTICE: dict[str, Any] = {"sent_on": "2026-11-25", "complaint": True, "court": True, "reference": "L-1042"}


class IdentifierIn(BaseModel):
    """What a person is known by: searched for by its keyed hash, and sealed until the request is purged."""

    model_config = STRICT

    type: IdentifierType
    value: Annotated[SecretStr, Field(min_length=1, max_length=512)]


class RecordsIn(BaseModel):
    """Records by the ids that their dataset gives them."""

    model_config = STRICT

    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    ids: Annotated[list[RecordIdText], Field(min_length=1, max_length=RECORD_IDS_MAX)]


class ContentIn(BaseModel):
    """Records by what they say, in whichever dataset: SHA-256 of their canonical bytes (`lethe/canon/1`)."""

    model_config = STRICT

    sha256: Annotated[list[Hash], Field(min_length=1, max_length=RECORD_IDS_MAX)]


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class ErasureRequestCreate(BaseModel):
    """Whom or what to forget: a person by identifiers, records by their ids, or by what they say."""

    model_config = example(
        {"subject": [{"type": "email", "value": "ada@example.org"}], "external_ref": "T-1042"},
        {"records": {"dataset": "people", "ids": ["ada-1", "ada-2"]}, "note": "asked by letter"},
        {"content": {"sha256": ["4f2b1c0c7a52b0d0a3a1b8b0f7c1b7f3f6f0a1f0d6f6f4d1f1a6b1f5e0c9d8a7"]}},
    )

    subject: (
        Annotated[
            list[IdentifierIn], BeforeValidator(_listed), Field(min_length=1, max_length=IDENTIFIERS_MAX)
        ]
        | None
    ) = None
    records: RecordsIn | None = None
    content: ContentIn | None = None
    external_ref: Reference | None = None
    """Your own ticket number; no personal data."""
    identity: Literal["vouched", "doubted"] = "vouched"
    """Whether you vouch for who asks; if not, nothing is searched for before that is proven."""
    note: Text | None = None
    """What else is to be known of it; sealed."""

    @model_validator(mode="after")
    def whom_or_what(self) -> Self:
        """Take exactly one of the three."""
        if sum(each is not None for each in (self.subject, self.records, self.content)) != 1:
            raise PydanticCustomError("subject_or_records", "give a subject, records or contents")
        return self


class SearchIn(BaseModel):
    """A person whose requests are sought."""

    model_config = example({"subject": [{"type": "email", "value": "ada@example.org"}]})

    subject: Annotated[
        list[IdentifierIn], BeforeValidator(_listed), Field(min_length=1, max_length=IDENTIFIERS_MAX)
    ]


class ToldIn(BaseModel):
    """That the person was told of an extension: when, and under which number of yours."""

    model_config = STRICT

    sent_on: date
    reference: Reference | None = None

    def notice(self) -> Notice:
        """Return it for the service."""
        return Notice(sent_on=self.sent_on, reference=self.reference)


class NoticeIn(ToldIn):
    """That the person was told of a refusal, of the authority to complain to, and of going to court."""

    complaint: Literal[True]
    court: Literal[True]


class ApprovalIn(BaseModel):
    """The hash of exactly the records and models that the approver has seen listed."""

    model_config = example(
        {"record_set_hash": HASH},
        {"record_set_hash": HASH, "decision": "send_back"},
        {"record_set_hash": HASH, "notice": NOTICE},
    )

    record_set_hash: Hash
    decision: Literal["approve", "send_back"] = "approve"
    """`send_back` has the request looked at again; approvals of it are void."""
    notice: NoticeIn | None = None
    """Needed by the last approval of a set of which records are kept."""


class RejectionIn(BaseModel):
    """The ground, as a paragraph of the regulation, and that the person was told (Art. 12(4))."""

    model_config = example(
        {"ground": "12.5", "notice": NOTICE},
        {"ground": "12.6", "notice": NOTICE, "reason": "the letter was signed by another person"},
    )

    ground: Ground
    notice: NoticeIn
    reason: Text | None = None
    """Why, in words; sealed."""


class ExemptionIn(BaseModel):
    """Records to be kept, all of the request's without a list; without a ground, no longer."""

    model_config = example(
        {"ground": "17.3.b", "records": ["rec_1042", "rec_1043"]}, {"ground": None, "records": ["rec_1042"]}
    )

    ground: Exemption | None
    records: Annotated[list[RecordId], Field(min_length=1, max_length=RECORD_IDS_MAX)] | None = None

    def ids(self) -> list[int] | None:
        """Return the rows' ids."""
        return None if self.records is None else [int(each.removeprefix("rec_")) for each in self.records]


class ResolutionIn(BaseModel):
    """What becomes of records that are proposed: of these, or of all that nobody has decided on.

    They are near duplicates, or name the person (`texts`): one kind at a time. `waive` goes on without them
    where they cannot be sought; it takes no records.
    """

    model_config = example(
        {"near_duplicates": "adopt", "records": ["rec_1044"]},
        {"near_duplicates": "decline"},
        {"near_duplicates": "waive"},
        {"texts": "adopt", "records": ["rec_2071"]},
    )

    near_duplicates: Literal["adopt", "decline", "waive"] | None = None
    texts: Literal["adopt", "decline", "waive"] | None = None
    records: Annotated[list[RecordId], Field(min_length=1, max_length=RECORD_IDS_MAX)] | None = None

    @model_validator(mode="after")
    def waived_as_a_whole(self) -> Self:
        """Take no records where nothing is known of any."""
        if self.decision == "waive" and self.records is not None:
            raise PydanticCustomError("waive_takes_no_records", "waive takes no records")
        return self

    @model_validator(mode="after")
    def of_one_kind(self) -> Self:
        """Decide on near duplicates or on what was found in texts: a list of records is of one of them."""
        if (self.near_duplicates is None) == (self.texts is None):
            raise PydanticCustomError("one_decision", "near_duplicates or texts")
        return self

    @property
    def decision(self) -> str | None:
        """Return what is decided."""
        return self.near_duplicates or self.texts

    def ids(self) -> list[int] | None:
        """Return the rows' ids."""
        return None if self.records is None else [int(each.removeprefix("rec_")) for each in self.records]


class ExtensionIn(BaseModel):
    """Why it takes longer, and that the person was told so inside the first month (Art. 12(3))."""

    model_config = example({"reason": "complexity", "notice": {"sent_on": "2026-12-01", "reference": "L-7"}})

    reason: ExtensionReason
    notice: ToldIn


class PauseIn(BaseModel):
    """The day on which the person was asked who they are; today if it is not said."""

    model_config = example({}, {"asked_on": "2026-11-23"})

    asked_on: date | None = None


class PauseEndIn(BaseModel):
    """The day on which the person answered; today if it is not said."""

    model_config = example({}, {"answered_on": "2026-11-30"})

    answered_on: date | None = None


class IdentityProofIn(BaseModel):
    """The code that the person was sent; or how else it was proven, and what you write of that."""

    model_config = example(
        {"code": "08154711"},
        {"method": "account_login"},
        {"method": "callback", "evidence": "called back on the number on file"},
    )

    code: Annotated[SecretStr, Field(min_length=8, max_length=8)] | None = None
    method: Literal["account_login", "one_time_code", "document", "callback", "in_person"] | None = None
    evidence: Text | None = None
    """What it was proven by, in words; sealed."""

    @model_validator(mode="after")
    def code_or_method(self) -> Self:
        """Take exactly one of the two; of a code there is nothing to write."""
        if (self.code is None) == (self.method is None) or (self.code and self.evidence):
            raise PydanticCustomError("code_or_method", "give a code or a method")
        return self


class RecordIn(BaseModel):
    """One record by the id that its dataset gives it."""

    model_config = STRICT

    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    id: RecordIdText


class HoldIn(BaseModel):
    """What must not be erased from for now: exactly one of a request, a record, a model."""

    model_config = example(
        {"request": REQUEST, "reason": "litigation", "external_ref": "C-17"},
        {"model": MODEL, "reason": "regulator", "days": 30},
        {"record": {"dataset": "people", "id": "ada-1"}, "reason": "preservation_order"},
    )

    request: RequestId | None = None
    record: RecordIn | None = None
    model: ModelId | None = None
    reason: HoldReason
    days: Annotated[int, Field(ge=1, le=HOLD_DAYS_MAX)] = HOLD_DAYS_MAX
    external_ref: Reference | None = None

    @model_validator(mode="after")
    def one_subject(self) -> Self:
        """Take exactly one of the three."""
        if sum(each is not None for each in (self.request, self.record, self.model)) != 1:
            raise PydanticCustomError("one_subject", "give a request, a record or a model")
        return self
