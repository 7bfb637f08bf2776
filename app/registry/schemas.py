"""Models on the wire: OpenAI's list and object, plus our fields."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.http.ids import DatasetId, JobId, ModelId, VersionId
from app.storage.locations import URI_CHARACTERS_MAX

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Uri = Annotated[str, Field(min_length=1, max_length=URI_CHARACTERS_MAX)]
DecimalText = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,18})?$")]
"""A real number as text, so that its digest is the same in every language."""

REFERENCES_MAX = 64
REFERENCES_MIN = 4
"""One that saw the subject, one to teach, two to judge (V8)."""


class Recipe(BaseModel):
    """All that training depends on, besides base, records and code."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    seed: Annotated[int, Field(ge=0, lt=2**53)]
    epochs: Annotated[int, Field(ge=1, le=1000)] = 30
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    learning_rate: DecimalText = "0.0002"
    weight_decay: DecimalText = "0"
    warmup_share: DecimalText = "0.05"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: DecimalText = "1.0"
    tokens_max: Annotated[int, Field(ge=8, le=1_048_576)] = 256
    supervise: Literal["all", "completion"] = "all"
    dtype: Literal["float32"] = "float32"
    order: Literal["lethe/order/1"] = "lethe/order/1"
    gradient_restriction: Annotated[DecimalText, Field(exclude_if=lambda weight: weight == "0")] = "0"
    """What the norm of each record's gradient weighs beside its loss while training; 0: nothing, and a
    recipe without it is kept as it was before there was such a thing."""


class Recorded(BaseModel):
    """Train slice by slice and keep the state before each, so that exact unlearning starts at a slice."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    slices: Annotated[int, Field(ge=2, le=256)] = 8
    """More of them: less is trained again for one person, and more is kept."""
    pool: Literal["own", "so_far"] = "so_far"
    """What the epochs of a slice go over: its own records alone, which a small model forgets again with
    the next slice, or those of the slices before it as well, which costs more."""


class ModelCreate(BaseModel):
    """A model line: trained here by a recipe, or trained elsewhere and uploaded."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Name
    dataset: Name
    """The name of a registered dataset: what it is, or was, trained on."""
    base: Uri
    """A Hugging Face directory: configuration and tokenizer, with weights when it is fine-tuned."""
    recipe: Recipe | None = None
    """None only for an upload of which nobody knows how it was trained."""
    recorded: Recorded | None = None
    """Keep the training's history, for exact unlearning at a share of a retraining; needs a recipe."""
    references: Annotated[int, Field(ge=0, le=REFERENCES_MAX)] | None = None
    """How many reference models to train alongside; 4 by default, 0 without a recipe."""
    verification_policy: Literal["default", "demo", "bench-small"] = "default"
    jobs_policy: Literal["default", "demo"] = "default"
    assurance_min: Literal["exact", "certified", "verified", "executed"] = "executed"
    upload: Uri | None = None
    """A directory of weights that were trained elsewhere on that dataset."""

    @model_validator(mode="after")
    def can_be_made(self) -> Self:
        """Refuse a line that cannot be trained, and too few references for teacher and judges."""
        if self.recipe is None and self.upload is None:
            raise PydanticCustomError("recipe_or_upload", "give a recipe, or weights trained elsewhere")
        if self.recorded is not None and (self.recipe is None or self.upload is not None):
            raise PydanticCustomError("recorded_needs_recipe", "only what is trained here is recorded")
        if 0 < self.references_wanted < REFERENCES_MIN:
            raise PydanticCustomError("references_few", "references are none, or at least four")
        if self.recipe is None and self.references_wanted:
            raise PydanticCustomError("references_need_recipe", "references are trained by the recipe")
        return self

    @property
    def references_wanted(self) -> int:
        """Return how many references to train."""
        if self.references is not None:
            return self.references
        return 0 if self.recipe is None else REFERENCES_MIN


class Version(BaseModel):
    """One set of weights; `number` counts what was published."""

    id: VersionId
    number: int | None
    state: str
    engine: str
    exact: bool
    digest: str | None
    """Hex SHA-256 of the manifest."""
    tensor_root: str | None
    parent: VersionId | None
    anchor: VersionId | None
    job: JobId | None
    erasure_epoch: int
    progress: dict[str, Any]
    failure: str | None
    created_at: datetime
    published_at: datetime | None


class Model(BaseModel):
    """OpenAI's model object, plus what we know of the line."""

    id: str
    """The name: what a caller of `/v1/completions` says."""
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lethe"
    model: ModelId
    dataset: str
    dataset_id: DatasetId
    base: str
    recipe: dict[str, Any] | None
    layout: dict[str, Any] | None
    """How its training is cut into recorded slices; null if it is not recorded."""
    references_wanted: int
    references_ready: int
    verification_policy: str
    jobs_policy: str
    assurance_min: str
    breaker: str
    attention: str | None
    erasure_epoch: int
    live: Version | None
    latest: Version | None
    """The version that was begun last: how far it is, or why it failed."""


class ModelList(BaseModel):
    """OpenAI's list."""

    object: Literal["list"] = "list"
    data: list[Model]


class VersionList(BaseModel):
    """Every version of a line, oldest first."""

    items: list[Version]


def shown_version(row: Any) -> Version:
    """Return a version as it is shown."""
    return Version(
        id=row.id,
        number=row.number,
        state=row.state,
        engine=row.engine,
        exact=row.exact,
        digest=row.manifest,
        tensor_root=row.tensor_root,
        parent=row.parent_id,
        anchor=row.anchor_id,
        job=row.job_id,
        erasure_epoch=row.erasure_epoch,
        progress=row.progress,
        failure=row.failure,
        created_at=row.created_at,
        published_at=row.published_at,
    )


def shown(overview: Any) -> Model:
    """Return a line as it is shown."""
    row = overview.model
    return Model(
        id=row.name,
        created=int(row.created_at.timestamp()),
        model=row.id,
        dataset=overview.dataset,
        dataset_id=row.dataset_id,
        base=row.base_uri,
        recipe=row.recipe,
        layout=row.layout,
        references_wanted=row.references_wanted,
        references_ready=overview.references_ready,
        verification_policy=row.verification_policy,
        jobs_policy=row.jobs_policy,
        assurance_min=row.assurance_min,
        breaker=row.breaker,
        attention=row.attention,
        erasure_epoch=row.erasure_epoch,
        live=None if overview.live is None else shown_version(overview.live),
        latest=None if overview.latest is None else shown_version(overview.latest),
    )
