"""What is right: the thresholds of a verdict, frozen, versioned, and named by their digest.

A policy is a TOML file in `policies/`; its digest, the SHA-256 of its RFC 8785 form, is in every
certificate. Thresholds are decimal strings, so the digest is the same in every language. It is
never tuned per request: a change is a new version. A policy whose tests could never fire is refused
when it is loaded, else a cohort too small would call every untouched model clean.
"""

import hashlib
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from app.errors import NotFound
from app.signing import canonical
from app.verification.conformal import MISS, threshold_rank

_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


def _decimal_string(value: object) -> object:
    """Refuse a number that is not written as a decimal string: a float has no one spelling."""
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError("write it as a decimal string")
    return value


Share = Annotated[Decimal, BeforeValidator(_decimal_string), Field(ge=0, le=1)]
Tail = Annotated[Decimal, BeforeValidator(_decimal_string), Field(gt=0, lt=1)]
Nats = Annotated[Decimal, BeforeValidator(_decimal_string), Field(ge=0)]


class Policy(BaseModel):
    """Every threshold of `verdict`, with the default profile's reasons in `policies/default.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    alpha: Tail
    alpha_control: Tail
    alpha_over: Tail
    alpha_spend: tuple[Tail, ...] = Field(min_length=1, max_length=2)
    """What each look at the audit material may spend; the confidence is 1 less their sum."""
    delta: Tail
    bh_q: Tail
    m_min: PositiveInt
    dev_share: Annotated[Decimal, BeforeValidator(_decimal_string), Field(ge=0, lt=1)]
    blind: Tail
    blind_cap: Tail
    twins_auc: tuple[Share, Share]
    mde_gap_share: Share
    mde_floor_nats: Nats
    sentinels_per_batch: PositiveInt
    sentinel_risk: Tail
    sentinel_window_days: PositiveInt
    qualification_days: PositiveInt
    assay_subjects: PositiveInt
    assay_min: Share
    attacks: tuple[str, ...] = Field(min_length=1)
    min_k: Tail
    paraphrases_min: PositiveInt
    extraction_prompts: PositiveInt
    extraction_samples: PositiveInt
    extraction_upper_max: Share
    gated_field_bits: PositiveInt
    relearn_steps: tuple[PositiveInt, ...]
    relearn_controls: PositiveInt
    utility_drop_job: Share
    utility_drop_anchor: Share
    utility_items_noisy_below: PositiveInt
    """Below so many items a drop must stand clear of its own noise to fail the gate."""
    neighbour_rise_nats: Nats
    degenerate_rise: Share
    audit_share: Share
    """Of certificates, drawn after they were issued: how many are audited deeply."""
    audit_alpha: Tail
    """Level at which one person's combined rank takes their certificate away."""
    audit_controls: PositiveInt
    """People who were kept and are audited alike, to show what it can see."""
    audit_reading_nats: Nats
    """By how much a second reading of a loss may differ from the one that was judged."""

    @model_validator(mode="after")
    def every_test_is_possible(self) -> Self:
        """Refuse a quantile that no rank among `m_min` others can reach."""
        tails = {
            "alpha": self.alpha,
            "alpha_control": self.alpha_control,
            "alpha_over": self.alpha_over,
            **{f"alpha_spend[{i}] / 2": spent / 2 for i, spent in enumerate(self.alpha_spend)},
            "the 80 % power quantile": MISS,
            "audit_alpha": self.audit_alpha,
        }
        impossible = [name for name, tail in tails.items() if threshold_rank(tail, self.m_min) < 1]
        if impossible:
            raise ValueError(f"with m_min {self.m_min} these tests could never fire: {', '.join(impossible)}")
        if threshold_rank(self.alpha, self.relearn_controls) < 1:
            raise ValueError(f"with {self.relearn_controls} controls relearning could never be detected")
        if "ref_loss" not in self.attacks:
            raise ValueError("ref_loss carries the control and the bound; it cannot be left out")
        if len(set(self.attacks)) != len(self.attacks):
            raise ValueError("an attack is listed twice")
        if sum(self.alpha_spend) >= 1:
            raise ValueError("the looks spend all of the confidence")
        return self

    @property
    def confidence(self) -> Decimal:
        """Return the confidence that is printed, whichever look passed."""
        return 1 - sum(self.alpha_spend, Decimal(0))

    def tail(self, look: int) -> Decimal | None:
        """Return a = alpha_spend(look) / 2, for each side of the bound; None if no such look is left."""
        return self.alpha_spend[look - 1] / 2 if 1 <= look <= len(self.alpha_spend) else None

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the RFC 8785 form, in hex; of what it says now, so it is never remembered."""
        return hashlib.sha256(canonical.encode(self.model_dump(mode="json"))).hexdigest()


_POLICIES = Path(__file__).parent / "policies"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def load(name: str) -> Policy:
    """Return the policy of that name; `NotFound` if there is none, `ValueError` if it is unsound."""
    file = _POLICIES / f"{name}.toml"
    if not _NAME.fullmatch(name) or not file.is_file():
        raise NotFound("there is no verification policy of that name", code="policy-not-found")
    return Policy.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
