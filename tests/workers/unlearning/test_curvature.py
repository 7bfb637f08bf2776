"""Steps against curvature: hand-worked numbers, and autograd in float64 as the slow oracle."""

import math

import pytest
import torch
from torch import Tensor, nn

from workers.unlearning.curvature import (
    Dense,
    Diagonal,
    Projection,
    gauss_newton,
    mean_eigenvalue,
    signed,
    walk,
    watched,
    within,
)


def test_iau_as_released_is_one_fresh_adam_step_on_the_two_means() -> None:
    """CE(retain) - CE(forget) with gradient q: Adam's first step is -lr q / (|q| + eps)."""
    forget = torch.tensor([0.5, -0.25, 0.1], dtype=torch.float64)
    retain = torch.tensor([0.1, 0.25, 0.1], dtype=torch.float64)
    found = signed(forget, retain, rate=0.01)
    assert found.tolist() == pytest.approx([0.01, -0.01, 0.0], abs=1e-6)
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=0.01, eps=1e-8)
    ((retain - forget) * parameter).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.allclose(found, parameter.detach(), atol=1e-6)


def test_a_damped_solution_by_hand() -> None:
    """(diag(1, 3) + 1) x = (2, 8) gives (1, 2); 0.5 d'Gd = (1 + 12) / 2, without the damping."""
    gram, vector = torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([2.0, 8.0])
    for curvature in (Dense(gram=gram, damping=1.0), Diagonal(values=gram.diagonal(), damping=1.0)):
        step = curvature.solve(vector)
        assert step.tolist() == pytest.approx([1.0, 2.0])
        assert curvature.cost(step) == pytest.approx(6.5)
    assert mean_eigenvalue(gram) == 2.0


def test_the_trust_region_scales_by_the_root_of_the_cost() -> None:
    curvature = Diagonal(values=torch.tensor([1.0, 3.0]), damping=1.0)
    step, share = within(torch.tensor([1.0, 2.0]), curvature, cost_max=6.5 / 4)
    assert share == pytest.approx(0.5)
    assert curvature.cost(step) == pytest.approx(6.5 / 4)
    assert within(step, curvature, cost_max=10)[1] == 1


def test_twice_the_records_are_twice_the_step() -> None:
    curvature = Dense(gram=torch.diag(torch.tensor([1.0, 3.0])), damping=0.1)

    def step(records: int) -> Tensor:
        return walk(
            torch.zeros(2),
            steps=1,
            gradient=lambda _: records * torch.ones(2),
            curvature=lambda _: curvature,
        )

    once, twice = step(1), step(2)
    assert torch.allclose(twice, 2 * once)


def test_a_quadratic_is_undone_in_one_step_and_no_more_in_four() -> None:
    """J_D = .5 a (t - m)^2 over n records: leaving S out moves the optimum by exactly P^-1 g_S.

    With P from what stays, one step is the answer; re-linearised steps shorten it, as g_S shrinks.
    """
    data = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    start, stays = data.mean()[None], data[:3]
    curvature = Dense(gram=torch.ones(1, 1, dtype=torch.float64), damping=0.0)

    def gradient(at: Tensor) -> Tensor:
        return (at - data[3]) / len(stays)

    assert float(walk(start, steps=1, gradient=gradient, curvature=lambda _: curvature)) == pytest.approx(2.0)


def test_gauss_newton_equals_the_hessian_of_a_linear_model() -> None:
    """Logits linear in the parameters: the Gauss-Newton matrix is the Hessian, autograd in float64."""
    torch.manual_seed(0)
    jacobian = torch.randn(3, 4, 5, dtype=torch.float64)
    targets = torch.tensor([0, 2, 3])

    def loss(theta: Tensor) -> Tensor:
        return nn.functional.cross_entropy(jacobian @ theta, targets, reduction="sum")

    at = torch.randn(5, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, at)  # type: ignore[no-untyped-call]
    assert isinstance(hessian, Tensor)
    found = gauss_newton(jacobian, (jacobian @ at).softmax(-1))
    assert torch.allclose(found, hessian)


def test_projected_gradients_of_single_records_are_those_of_a_slow_loop() -> None:
    torch.manual_seed(1)
    first, second = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
    net = nn.Sequential(first, nn.Tanh(), second)
    matrices: dict[str, nn.Linear] = {"0": first, "2": second}
    inputs, targets = torch.randn(4, 7, 6, dtype=torch.float64), torch.randint(3, (4, 7))

    def loss(rows: slice) -> Tensor:
        logits = net(inputs[rows]).flatten(0, 1)
        return nn.functional.cross_entropy(logits, targets[rows].flatten(), reduction="sum")

    with watched(matrices) as seen:
        loss(slice(None)).backward()  # type: ignore[no-untyped-call]
    projection = Projection.spanning({name: [pair] for name, pair in seen.items()}, rank=2)
    assert projection.size == 8
    fast = projection.rows(seen)
    for row in range(4):
        net.zero_grad()
        loss(slice(row, row + 1)).backward()  # type: ignore[no-untyped-call]
        gradients = {name: module.weight.grad for name, module in matrices.items()}
        slow = projection.down({name: g for name, g in gradients.items() if g is not None})
        assert torch.allclose(fast[row], slow)


def test_going_up_and_down_again_is_no_change() -> None:
    torch.manual_seed(2)
    left, _ = torch.linalg.qr(torch.randn(6, 2))
    right, _ = torch.linalg.qr(torch.randn(5, 3))
    projection = Projection(left={"w": left}, right={"w": right})
    core = torch.randn(projection.size)
    up = projection.up(core)
    assert up["w"].shape == (6, 5)
    assert torch.allclose(projection.down(up), core, atol=1e-6)
    # Orthonormal directions: the size of a change is the size of its core.
    assert float(up["w"].norm()) == pytest.approx(float(core.norm()), rel=1e-5)
    assert math.isfinite(float(core.norm()))
