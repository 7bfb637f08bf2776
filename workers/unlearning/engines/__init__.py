"""The registry: which engines there are, and how one is made from its name and configuration.

Each engine is a module of its own, and none knows another.
"""

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

from workers.unlearning.engines.base import Engine
from workers.unlearning.engines.gradient import Gradient
from workers.unlearning.engines.retrain import Retrain

ENGINES: Mapping[str, type[Gradient] | type[Retrain]] = {Gradient.id: Gradient, Retrain.id: Retrain}


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
    return cls(**chosen)
