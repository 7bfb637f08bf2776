"""How many people must agree, of which level, and when is warned: the requests' policy.

Pure and versioned. Thresholds are policies and never settings; each request keeps the name of the
policy it came in under, and each approval's audit event has the digest.
"""

import tomllib
from collections.abc import Collection
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from app.auth.scopes import ROLES
from app.signing import canonical

Level = Literal["reviewer", "privacy_officer"]
LEVELS: tuple[Level, ...] = ("reviewer", "privacy_officer")
"""Lowest first: a reviewer may approve; a privacy officer may also see whose request it is."""

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Rule(BaseModel):
    """So many people, of whom so many have a level, for requests that it applies to."""

    model_config = _STRICT

    name: str
    records_over: NonNegativeInt | None = None
    """Applies only to more records than that; None: to any number."""
    grounds: frozenset[str] | None = None
    """Applies only where a record is exempt on one of these grounds; None: to every request."""
    near_duplicates: bool = False
    """Applies only where a person adopted into the set what was proposed: near duplicates, or mentions."""
    people: PositiveInt
    level: Level = LEVELS[0]
    of_level: NonNegativeInt = 0
    """How many of the people must have at least this level."""

    def applies(self, records: int, grounds: Collection[str], *, near: bool) -> bool:
        """Return whether a request of so many records, exempt on these grounds, falls under the rule."""
        many = self.records_over is None or records > self.records_over
        return (
            many
            and (near or not self.near_duplicates)
            and (self.grounds is None or not self.grounds.isdisjoint(grounds))
        )

    def met(self, given: Collection[str]) -> bool:
        """Return whether approvals of these levels are enough for it."""
        high = sum(LEVELS.index(_level(each)) >= LEVELS.index(self.level) for each in given)
        return len(given) >= self.people and high >= self.of_level


class NearDuplicates(BaseModel):
    """Whether near duplicates are sought, and which of them are shown to a person."""

    model_config = _STRICT

    search: bool
    jaccard_least: Annotated[Decimal, Field(gt=0, le=1)]
    """The exact index from which on a record is proposed; the banding finds few below a half."""
    proposals_most: Annotated[int, Field(ge=1, le=10_000)]
    """At once; the others come once these are decided."""


class TextScan(BaseModel):
    """Whether what a person is known by is sought in what all records say, and what of it."""

    model_config = _STRICT

    search: bool
    types_besides: frozenset[str]
    """Types that are never sought, as many people share what they say."""
    characters_least: PositiveInt
    """Shorter identifiers stand in too many texts that mean something else."""
    proposals_most: Annotated[int, Field(ge=1, le=10_000)]
    """At once; the others come once these are decided."""

    def seeks(self, type_: str) -> bool:
        """Return whether identifiers of a type are sought."""
        return self.search and type_ not in self.types_besides


class RequestsPolicy(BaseModel):
    """Approvals, warnings, holds; frozen and versioned."""

    model_config = _STRICT

    version: str
    internal_target_days: PositiveInt
    warn_days: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    attention_days: PositiveInt
    """From so many days before the date on, a person is asked for."""
    hold_days_longest: PositiveInt
    near_duplicates: NearDuplicates
    text_scan: TextScan
    approvals: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @property
    def digest(self) -> str:
        """Return the hex SHA-256 of the policy's RFC 8785 form."""
        plain = self.model_dump(mode="json")
        for rule in plain["approvals"]:
            rule["grounds"] = sorted(rule["grounds"]) if rule["grounds"] is not None else None
        plain["text_scan"]["types_besides"] = sorted(plain["text_scan"]["types_besides"])
        return sha256(canonical.encode(plain)).hexdigest()

    def rules_for(self, records: int, grounds: Collection[str], *, near: bool) -> tuple[Rule, ...]:
        """Return every rule that a request falls under; all of them must be met."""
        found = tuple(rule for rule in self.approvals if rule.applies(records, grounds, near=near))
        assert found, "some rule applies to every request, or nobody would have to agree"
        return found

    def enough(
        self, given: Collection[str], *, records: int, grounds: Collection[str], near: bool = False
    ) -> bool:
        """Return whether approvals of these levels are enough for such a request."""
        return all(rule.met(given) for rule in self.rules_for(records, grounds, near=near))

    def people_needed(self, *, records: int, grounds: Collection[str], near: bool = False) -> int:
        """Return how many people such a request needs at least."""
        return max(max(rule.people, rule.of_level) for rule in self.rules_for(records, grounds, near=near))


@cache
def load(name: str) -> RequestsPolicy:
    """Return the policy of that name; a KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    policy = RequestsPolicy.model_validate(_written(name))
    assert any(
        rule.records_over is None and rule.grounds is None and not rule.near_duplicates
        for rule in policy.approvals
    ), "one rule is for every request"
    assert list(policy.warn_days) == sorted(set(policy.warn_days), reverse=True), "the farthest first"
    return policy


def level_of(scopes: Collection[str]) -> Level:
    """Return the highest level of a caller with these scopes who may approve."""
    return LEVELS[1] if ROLES[LEVELS[1]].issubset(scopes) else LEVELS[0]


def names() -> list[str]:
    """Return the policies there are."""
    found = (each.name for each in (files(__package__) / "policies").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def _written(name: str) -> dict[str, Any]:
    """Return a policy as it is written; one that extends another says only in what it differs."""
    text = (files(__package__) / "policies" / f"{name}.toml").read_text(encoding="utf-8")
    said = tomllib.loads(text)
    base = said.pop("extends", None)
    if base is None:
        return said
    whole = _written(base)
    for key, value in said.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) else value
    return whole


def _level(name: str) -> Level:
    found = next((each for each in LEVELS if each == name), None)
    assert found is not None, f"{name} is no level"
    return found
