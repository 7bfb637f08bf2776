"""The registry: which engines there are, and how one is made from its name and configuration.

Each engine is a module of its own, and none knows another.
"""

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

from workers.unlearning.engines.arithmetic import Extrapolate
from workers.unlearning.engines.base import Engine
from workers.unlearning.engines.baselines import Rmu, Scrub, SparseTuning
from workers.unlearning.engines.dampening import Dampening
from workers.unlearning.engines.exact_replay import ExactReplay
from workers.unlearning.engines.gradient import Gradient
from workers.unlearning.engines.influence import Influence
from workers.unlearning.engines.retrain import Retrain

ENGINES: Mapping[str, type[Any]] = {
    each.id: each
    for each in (
        ExactReplay,
        Retrain,
        Influence,
        Gradient,
        Dampening,
        Extrapolate,
        Scrub,
        SparseTuning,
        Rmu,
    )
}
"""By name. Each says what it guarantees, and whether it erases or only suppresses (`aim`)."""


def resolve(engine: str, config: Mapping[str, Any]) -> Engine:
    """Return the engine of this name; a field it does not have is a ValueError.

    Decimals may come as strings, which is how JSON carries them unharmed.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}, only {', '.join(sorted(ENGINES))}")
    cls = ENGINES[engine]
    types = {each.name: each.type for each in fields(cls)}
    if unknown := config.keys() - types.keys():
        raise ValueError(f"engine {engine} has no field {min(unknown)!r}")
    chosen: dict[str, Any] = {
        name: Decimal(value) if types[name] is Decimal else value for name, value in config.items()
    }
    made: Engine = cls(**chosen)
    return made
