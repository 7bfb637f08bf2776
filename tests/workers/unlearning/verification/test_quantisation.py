"""Quantised forms: the formats by hand, and which weights they touch."""

from pathlib import Path

import pytest

from workers.unlearning.task import CausalLM
from workers.unlearning.verification.quantisation import NF4, int4, int8, is_proxy, load, nf4, quantise

import torch  # isort: skip
from hypothesis import given
from hypothesis import strategies as st

CPU = torch.device("cpu")


def test_int8_by_hand() -> None:
    # absmax 127 -> scale 1; absmax 2.54 -> scale .02
    weight = torch.tensor([[127.0, 0.4, -0.6], [2.54, 0.019, -0.031]])
    expected = torch.tensor([[127.0, 0.0, -1.0], [2.54, 0.02, -0.04]])
    assert torch.allclose(int8(weight), expected)


def test_int4_by_hand() -> None:
    # min -3, max 12: scale 1, zero point 3; -0.6 rounds to -1, 7.4 to 7
    assert int4(torch.tensor([[-3.0, 12.0, -0.6, 7.4]])).tolist() == [[-3.0, 12.0, -1.0, 7.0]]


def test_nf4_by_hand() -> None:
    # absmax 2: the levels are twice those of the table; .3 / 2 = .15 is nearest to .1609...
    found = nf4(torch.tensor([[2.0, -2.0, 0.0, 0.3]]))
    assert torch.allclose(found, torch.tensor([[2.0, -2.0, 0.0, 2 * NF4[9]]]))


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_rounding_moves_no_weight_further_than_half_a_step(seed: int, width: int) -> None:
    weight = torch.randn(3, width, generator=torch.Generator().manual_seed(seed))
    step = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((int8(weight) - weight).abs() <= step / 2 + 1e-6).all())
    for start in range(0, width, 128):
        part, found = weight[:, start : start + 128], int4(weight)[:, start : start + 128]
        scale = (part.amax(1, keepdim=True) - part.amin(1, keepdim=True)) / 15
        # The zero point is rounded too, so the ends may miss by one half step more.
        assert bool(((found - part).abs() <= scale * 1.01 + 1e-6).all()) or part.shape[1] == 1
        assert all(len(row.unique()) <= 16 for row in found)


def test_what_is_all_alike_does_not_divide_by_nought() -> None:
    for round_ in (int8, int4, nf4):
        assert round_(torch.zeros(2, 130)).isfinite().all()


def test_embeddings_norms_and_head_stay(base: Path) -> None:
    task = CausalLM.create(base, 4)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    assert quantise(task.model, "int4") == 8  # two layers of four matrices
    changed = {
        name for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert len(changed) == 8
    assert all(".attn.c_" in name or ".mlp.c_" in name for name in changed)
    assert all(name.endswith("weight") for name in changed)


def test_an_output_channel_of_a_transposed_matrix_is_a_column(base: Path) -> None:
    task = CausalLM.create(base, 4)
    weight = task.model.transformer.h[0].mlp.c_fc.weight  # (in, out) = (64, 256)
    expected = int8(weight.detach().T.clone()).T
    quantise(task.model, "int8")
    assert torch.equal(weight, expected)


def test_forms(base: Path, tmp_path: Path) -> None:
    CausalLM.create(base, 4).save(tmp_path)
    plain = load(tmp_path, "float32/none", device=CPU).parameters()
    halved = load(tmp_path, "bfloat16/none", device=CPU).parameters()
    for name, value in plain.items():
        assert halved[name].dtype is torch.float32
        assert torch.equal(halved[name], value.bfloat16().float())
    assert any(not torch.equal(halved[name], plain[name]) for name in plain)
    for form in ("float32/int8", "float32/int4", "float32/nf4"):
        assert is_proxy(form, device=CPU)
        found = load(tmp_path, form, device=CPU).parameters()
        assert any(not torch.equal(found[name], plain[name]) for name in plain)
    assert not is_proxy("float32/none", device=CPU)
    for form in ("float32/gguf", "int3/none"):
        with pytest.raises(ValueError, match="is not one"):
            load(tmp_path, form, device=CPU)
