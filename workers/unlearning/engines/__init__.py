"""The registry: which engines there are, and how one is made from its name and configuration.

Each engine is a module of its own, and none knows another.
"""

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin

from workers.unlearning.engines.ablation import Ablation
from workers.unlearning.engines.arithmetic import Extrapolate
from workers.unlearning.engines.base import Engine
from workers.unlearning.engines.baselines import Rmu, Scrub, SparseTuning
from workers.unlearning.engines.dampening import Dampening
from workers.unlearning.engines.edits import Projecting, PseudoInverse, Redirection
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
        Ablation,
        PseudoInverse,
        Redirection,
        Projecting,
    )
}
"""By name. Each says what it guarantees, and whether it erases or only suppresses (`aim`)."""


def resolve(engine: str, config: Mapping[str, Any]) -> Engine:
    """Return the engine of this name; what is no field, or no value of its kind, is a ValueError.

    Decimals may come as strings, which is how JSON carries them unharmed.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}, only {', '.join(sorted(ENGINES))}")
    cls = ENGINES[engine]
    types = {each.name: each.type for each in fields(cls)}
    if unknown := config.keys() - types.keys():
        raise ValueError(f"engine {engine} has no field {min(unknown)!r}")
    made: Engine = cls(**{name: _value(name, types[name], value) for name, value in config.items()})
    return made


def _value(name: str, kind: Any, value: Any) -> Any:
    """Return a field's value: one of the words it may be, a truth, a whole number, or a finite decimal."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name} is one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if kind is not Decimal:
        if type(value) is not kind:
            raise ValueError(f"{name} is of type {kind.__name__}")
        return value
    try:
        found = Decimal(value)
    except (ArithmeticError, TypeError, ValueError):
        found = Decimal("nan")
    if not found.is_finite():
        raise ValueError(f"{name} is a finite decimal number")
    return found
