"""One head per set of records: the optimum, whoever asks in whatever order, and without the erased."""

from random import Random

import pytest
import torch
from torch import Tensor

from workers.unlearning.refit import NotConverged, refit

CLASSES = 3


def world(seed: int, count: int = 40) -> tuple[dict[str, Tensor], dict[str, int]]:
    generator = torch.Generator().manual_seed(seed)
    features = {f"r{n}": torch.randn(4, generator=generator) for n in range(count)}
    return features, {key: int(each[:CLASSES].argmax()) for key, each in features.items()}


def test_it_is_the_optimum() -> None:
    features, labels = world(1)
    head = refit(features, labels, classes=CLASSES, decay=0.5)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    rows = torch.stack([features[key].double() for key in features])
    loss = torch.nn.functional.cross_entropy(
        rows @ weight.T + bias, torch.tensor([labels[key] for key in features]), reduction="sum"
    )
    (loss + 0.25 * (weight.square().sum() + bias.square().sum())).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 1e-6
    right = (rows @ head.weight.T + head.bias).argmax(-1) == torch.tensor([labels[key] for key in features])
    assert float(right.double().mean()) > 0.9


def test_by_hand() -> None:
    """Two classes, one record at nought, so only the biases move: -b0 = b1 = b with b = sigmoid(-2b)."""
    head = refit({"r": torch.zeros(1)}, {"r": 1}, classes=2, decay=1.0)
    b = float(head.bias[1])
    assert b == pytest.approx(1 / (1 + 2.718281828459045 ** (2 * b)), abs=1e-9)
    assert float(head.bias[0]) == pytest.approx(-b, abs=1e-9)
    assert not head.weight.any()


@pytest.mark.parametrize("seed", range(5))
def test_without_the_erased_is_never_having_had_them(seed: int) -> None:
    features, labels = world(seed)
    draw = Random(seed)
    gone = set(draw.sample(sorted(features), draw.randint(1, 20)))
    left = [key for key in features if key not in gone]
    never = refit({k: features[k] for k in left}, {k: labels[k] for k in left}, classes=CLASSES)
    draw.shuffle(left)
    torch.manual_seed(seed)
    again = refit({k: features[k] for k in left}, {k: labels[k] for k in left}, classes=CLASSES)
    assert torch.equal(never.weight, again.weight)
    assert torch.equal(never.bias, again.bias)
    with_them = refit(features, labels, classes=CLASSES)
    assert not torch.equal(never.weight, with_them.weight)


def test_what_is_no_number_is_told() -> None:
    with pytest.raises((NotConverged, RuntimeError)):
        refit({"a": torch.tensor([float("nan")]), "b": torch.ones(1)}, {"a": 0, "b": 1}, classes=2)
