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
NATURAL: Config = {"forget_share_max": "0.25", "steps": "natural"}
"""As many as the engine takes by itself."""
NATURAL_COSTS = ("0.00012", "0.0002", "0.0003")
AWAY = ("bounded", "npo", "simnpo", "ihl", "max_entropy", "grad_diff", "ga_kl")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method as it stands in the table: an engine, and the points of its grid."""

    engine: str
    points: tuple[Config, ...]
    usual: int = -1
    """The point taken where no grid is tried, as in a sequence: the middle one if nothing is said."""

    @property
    def alone(self) -> Config:
        """Return that point."""
        return self.points[self.usual if self.usual >= 0 else len(self.points) // 2]


def _weighted(engine: str, config: Config) -> Method:
    points = tuple({**STEPPED, **config, "forget_weight": weight} for weight in FORGET_WEIGHTS)
    return Method(engine=engine, points=points)


def _natural(config: Config) -> Method:
    points = tuple({**NATURAL, **config, "step_divergence": cost} for cost in NATURAL_COSTS)
    return Method(engine="gradient", points=points, usual=0)  # the engine as it is by itself


def _influence(config: Config) -> Method:
    points = tuple(
        {"refuses_unreached": False, "records_max": 128, **config, "divergence_max": most}
        for most in ("0.02", "0.1", "0.5")
    )
    return Method(engine="influence", points=points)


def _knob(engine: str, name: str, values: tuple[Any, ...]) -> Method:
    return Method(engine=engine, points=tuple({name: value} for value in values))


METHODS: Mapping[str, Method] = {
    "match": _natural({}),
    "match_stirred": _natural({"stir_every": 36}),
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
    "grad_diff_project": _weighted("gradient", {"mode": "grad_diff", "project": True}),
    "npo_filtered": Method(
        engine="gradient",
        points=({**STEPPED, "mode": "npo", "forget_weight": FORGET_WEIGHTS[1], "skip_forgotten": True},),
    ),
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
    "influence": _influence({}),
    "influence_kfac": _influence({"form": "kfac"}),
    "influence_diagonal": _influence({"form": "diagonal"}),
    "dampening": _knob("dampening", "alpha", ("3", "10", "30")),
    "scrub": _weighted("scrub", {}),
    "rmu": _weighted("rmu", {}),
    "l1_sparse": Method(
        engine="l1_sparse",
        points=tuple({**STEPPED, "sparsity": sparsity} for sparsity in ("0.000001", "0.00001", "0.0001")),
    ),
    # More training on what stays and nothing else: whoever does not beat it at its cost is worth nothing.
    "retain_only": Method(engine="l1_sparse", points=({**STEPPED, "sparsity": "0"},)),
    "ablation": _knob("ablation", "share", ("0.003", "0.01", "0.03")),
    "pseudo_inverse": _knob("pseudo_inverse", "strength", ("0.3", "1", "3")),
    "redirection": _knob("redirection", "amount", ("0.5", "1", "2")),
    "projection": _knob("projection", "rank", (2, 4, 8)),
    **{
        kind: Method(engine="extrapolate", points=({"kind": kind},))
        for kind in ("task_vector", "memorise", "first_epoch")
    },
}
"""What is compared. Points that differ in one knob are the grid; the best on dev is measured.

Not the `router` of `gradient`: no world here is a mixture of experts, and without one it refuses.
"""

QUICK = ("match", "npo", "iau")
