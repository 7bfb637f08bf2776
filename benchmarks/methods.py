"""What is compared: each method's engine and the small grid of its settings.

Knows no world and runs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

FORGET_WEIGHTS = ("0.02", "0.05", "0.2")
STEPPED: Config = {
    "forget_share_max": "0.25",
    "steps_max": 100,
    "forget_batch": 16,
    "retain_batch": 24,
    "rate_share": "0.06",
    "check_every": 10,
}
"""The same steps for every method that takes any: what differs is what they descend on, and how hard."""
NATURAL: Config = {
    "forget_share_max": "0.25",
    "steps_max": 190,
    "forget_batch": 6,
    "retain_batch": 10,
    "check_every": 20,
    "steps": "natural",
}
"""Smaller batches, more of them: natural steps bear it, and about as many records come to pass."""
NATURAL_WEIGHTS = ("0.06", "0.12", "0.2")
AWAY = ("bounded", "npo", "simnpo", "ihl", "max_entropy", "grad_diff", "ga_kl")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method as it stands in the table: an engine, and the points of its grid."""

    engine: str
    points: tuple[Config, ...]


def _weighted(engine: str, config: Config) -> Method:
    points = tuple({**STEPPED, **config, "forget_weight": weight} for weight in FORGET_WEIGHTS)
    return Method(engine=engine, points=points)


def _natural(config: Config) -> Method:
    points = tuple({**NATURAL, **config, "forget_weight": weight} for weight in NATURAL_WEIGHTS)
    return Method(engine="gradient", points=points)


METHODS: Mapping[str, Method] = {
    "match": _natural({}),
    "match_adam": _weighted("gradient", {"steps": "adam"}),
    **{mode: _weighted("gradient", {"mode": mode}) for mode in AWAY},
    "ga": Method(
        engine="gradient",
        points=tuple(
            {
                **STEPPED,
                "mode": "grad_diff",
                "retain_batch": 0,
                "steps_max": 10,
                "check_every": 2,
                "rate_share": rate,
            }
            for rate in ("0.006", "0.02", "0.06")
        ),
    ),
    "saliency": _weighted("gradient", {"mode": "grad_diff", "mask": "saliency"}),
    "npo_natural": _natural({"mode": "npo"}),
    "bounded_natural": _natural({"mode": "bounded"}),
    "match_lora": Method(engine="gradient", points=({**STEPPED, "scope": "lora", "rate_share": "0.5"},)),
    "match_int4": Method(engine="gradient", points=({**STEPPED, "quant_noise": "int4"},)),
    "embeddings": _weighted("gradient", {"mode": "grad_diff", "scope": "embeddings"}),
    "iau": Method(
        engine="influence",
        points=tuple(
            {"form": "sign", "refuses_unreached": False, "records_max": 128, "rate": rate}
            for rate in ("0.0003", "0.001", "0.003")
        ),
    ),
    "influence": Method(
        engine="influence",
        points=tuple(
            {"refuses_unreached": False, "records_max": 128, "divergence_max": most}
            for most in ("0.02", "0.1", "0.5")
        ),
    ),
    "dampening": Method(
        engine="dampening",
        points=tuple({"alpha": alpha} for alpha in ("3", "10", "30")),
    ),
    "scrub": _weighted("scrub", {}),
    "rmu": _weighted("rmu", {}),
    "l1_sparse": Method(
        engine="l1_sparse",
        points=tuple({**STEPPED, "sparsity": sparsity} for sparsity in ("0.000001", "0.00001", "0.0001")),
    ),
    **{
        kind: Method(engine="extrapolate", points=({"kind": kind},))
        for kind in ("task_vector", "memorise", "first_epoch")
    },
}
"""What is compared. Points that differ in one knob are the grid; the best on dev is measured."""

QUICK = ("match", "npo", "iau")
