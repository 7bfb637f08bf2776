"""Policies are validated when they are loaded, and named by their digest."""

import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import NotFound
from app.verification import policy as policies
from tests.app.verification import builders


def test_the_default_policy_is_as_it_was_agreed() -> None:
    default = policies.load("default")
    assert (default.alpha, default.alpha_control, default.alpha_over) == (
        Decimal("0.05"),
        Decimal("0.01"),
        Decimal("0.01"),
    )
    assert default.confidence == Decimal("0.95")
    assert (default.tail(1), default.tail(2), default.tail(3)) == (Decimal("0.02"), Decimal("0.005"), None)
    assert (default.delta, default.m_min, default.sentinels_per_batch) == (Decimal("0.2"), 199, 20)


def test_the_demonstration_differs_in_its_number_of_sentinels_alone() -> None:
    demo, default = policies.load("demo").model_dump(), policies.load("default").model_dump()
    assert {name for name in demo if demo[name] != default[name]} == {"version", "sentinels_per_batch"}


def test_small_benchmarks_print_the_confidence_they_have() -> None:
    small = policies.load("bench-small")
    assert (small.confidence, small.m_min, small.dev_share) == (Decimal("0.90"), 40, Decimal(0))
    assert small.tail(2) is None


def test_a_digest_names_the_content() -> None:
    digests = {name: policies.load(name).digest for name in ("default", "demo", "bench-small")}
    assert len(set(digests.values())) == 3
    assert policies.load("default").digest == digests["default"]
    assert builders.policy(delta="0.21").digest != digests["default"]


def test_every_policy_file_loads() -> None:
    folder = Path(policies.__file__).parent / "policies"
    names = [file.stem for file in folder.glob("*.toml")]
    assert len(names) >= 3
    assert all(policies.load(name).version for name in names)


@pytest.mark.parametrize("name", ["missing", "../policy", "Default", "default.toml", ""])
def test_a_policy_that_does_not_exist(name: str) -> None:
    with pytest.raises(NotFound):
        policies.load(name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"m_min": 14}, "could never fire"),
        ({"m_min": 198}, r"alpha_spend\[1\] / 2"),
        ({"m_min": 98, "alpha_spend": ("0.04",)}, "alpha_control"),
        ({"relearn_controls": 18}, "relearning could never be detected"),
        ({"alpha": 0.05}, "decimal string"),
        ({"alpha": "5e-2"}, "decimal string"),
        ({"alpha": "0"}, "greater than 0"),
        ({"alpha": "NaN"}, "decimal string"),
        ({"attacks": ("paraphrase",)}, "ref_loss"),
        ({"attacks": ("ref_loss", "ref_loss")}, "twice"),
        ({"alpha_spend": ("0.04", "0.01", "0.01")}, "at most 2"),
        ({"alpha_spend": ("0.5", "0.5")}, "spend all"),
        ({"gap": "1"}, "Extra inputs"),
    ],
)
def test_an_unsound_policy_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        builders.policy(**changes)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        policies.load("default").alpha = Decimal("0.5")  # type: ignore[misc]  # which is the point


def test_the_digest_is_of_the_canonical_form() -> None:
    """RFC 8785 of the file's own words: keys sorted, decimals as they were written."""
    file = Path(policies.__file__).parent / "policies" / "default.toml"
    written = tomllib.loads(file.read_text(encoding="utf-8"))
    dumped = policies.load("default").model_dump(mode="json")
    assert dumped == written
