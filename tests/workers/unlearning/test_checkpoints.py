"""Deltas add up, files appear whole, a state comes back to the run that wrote it and to no other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from workers.unlearning import checkpoints
from workers.unlearning.checkpoints import Delta, MisfitDelta, Progress, ProgressFile, State

FORMAT = {"format": "pt"}


def model(directory: Path, dtype: torch.dtype = torch.float32, **tensors: list[float]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"dtype": str(dtype).removeprefix("torch.")}))
    held = {name: torch.tensor(values, dtype=dtype) for name, values in tensors.items()}
    save_file(held, directory / "model.safetensors", FORMAT)
    return directory


def delta(path: Path, **tensors: list[float]) -> Path:
    Delta({name: torch.tensor(values) for name, values in tensors.items()}).save(path)
    return path


def test_a_candidate_is_the_anchor_plus_the_deltas(tmp_path: Path) -> None:
    anchor = model(tmp_path / "a", w=[1.0, 2.0], b=[5.0])
    first, second = delta(tmp_path / "1", w=[0.5, 0.0], b=[1.0]), delta(tmp_path / "2", w=[0.25, -4.0])
    checkpoints.compose(anchor, [first, second], tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found["w"].tolist() == [1.75, -2.0]
    assert found["b"].tolist() == [6.0]
    assert (tmp_path / "out" / "config.json").exists()


def test_the_sum_is_made_in_float32_and_cast_once(tmp_path: Path) -> None:
    """Each half step is lost in bfloat16 (spacing 2^-7 at 1); both together are not."""
    anchor = model(tmp_path / "a", torch.bfloat16, w=[1.0])
    half = delta(tmp_path / "d", w=[0.5 * 2**-7 * 0.99])
    checkpoints.compose(anchor, [half], tmp_path / "one")
    checkpoints.compose(anchor, [half, half], tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model.safetensors")["w"] for name in ("one", "two"))
    assert two.dtype is torch.bfloat16
    assert [float(one[0]), float(two[0])] == [1.0, 1.0 + 2**-7]


def test_composed_in_another_dtype_the_configuration_says_so(tmp_path: Path) -> None:
    anchor = model(tmp_path / "a", torch.bfloat16, w=[1.0])
    checkpoints.compose(anchor, [], tmp_path / "out", dtype=torch.float32)
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].dtype is torch.float32
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"dtype": "float32"}


def test_files_are_cut_as_the_anchors_are(tmp_path: Path) -> None:
    anchor = model(tmp_path / "a", w=[1.0])
    (anchor / "model.safetensors").rename(anchor / "model-00001-of-00002.safetensors")
    save_file({"v": torch.tensor([2.0])}, anchor / "model-00002-of-00002.safetensors", FORMAT)
    (anchor / "model.safetensors.index.json").write_text("{}")
    checkpoints.compose(anchor, [delta(tmp_path / "d", v=[1.0])], tmp_path / "out")
    assert load_file(tmp_path / "out" / "model-00002-of-00002.safetensors")["v"].tolist() == [3.0]
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("wrong", [{"x": [1.0]}, {"w": [1.0, 2.0]}])
def test_a_delta_of_another_model_is_refused(tmp_path: Path, wrong: dict[str, list[float]]) -> None:
    anchor = model(tmp_path / "a", w=[1.0])
    with pytest.raises(MisfitDelta):
        checkpoints.compose(anchor, [delta(tmp_path / "d", **wrong)], tmp_path / "out")


def test_subtraction_undoes_addition_and_measures_it(tmp_path: Path) -> None:
    anchor, other = model(tmp_path / "a", w=[1.0, 2.0]), model(tmp_path / "b", w=[4.0, 6.0])
    found = checkpoints.subtract(other, anchor)
    assert found.tensors["w"].tolist() == [3.0, 4.0]
    assert found.norm == 5.0
    found.save(tmp_path / "d")
    assert Delta.load(tmp_path / "d").tensors["w"].tolist() == [3.0, 4.0]
    with pytest.raises(MisfitDelta):
        checkpoints.subtract(model(tmp_path / "c", v=[1.0]), anchor)


def test_the_share_of_changed_weights_depends_on_the_form(tmp_path: Path) -> None:
    anchor = model(tmp_path / "a", w=[1.0, 1.0, 1.0, 1.0])
    small = Delta({"w": torch.tensor([0.0, 1e-4, 1e-4, 0.5])})
    forms = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    assert checkpoints.changed_shares(anchor, small, forms) == {"float32": 0.75, "bfloat16": 0.25}


def test_a_directorys_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    first, second = model(tmp_path / "a", w=[1.0]), model(tmp_path / "b", w=[1.0])
    assert checkpoints.digest(first) == checkpoints.digest(second)
    (second / "config.json").rename(second / "other.json")
    assert checkpoints.digest(first) != checkpoints.digest(second)


def test_a_file_that_could_not_be_finished_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    checkpoints.write_atomically(path, b"old")

    def broken(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_state_comes_back_to_its_own_run_only(tmp_path: Path) -> None:
    state = State(
        identity="mine",
        step=7,
        tensors={"w": torch.tensor([1.5])},
        optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        numbers={"rise": 0.25, "active": [0, 2]},
    )
    state.save(tmp_path / "s")
    again = State.load(tmp_path / "s", identity="mine")
    assert again is not None
    assert (again.step, again.tensors["w"].tolist(), again.numbers) == (7, [1.5], state.numbers)
    assert again.optimizer == state.optimizer
    assert State.load(tmp_path / "s", identity="other") is None
    assert State.load(tmp_path / "none", identity="mine") is None


def test_progress_is_fresh_but_not_restless(tmp_path: Path) -> None:
    tell = ProgressFile(tmp_path / "p")

    def said() -> dict[str, object]:
        found: dict[str, object] = json.loads((tmp_path / "p").read_text())
        return found

    def at(step: int, phase: str = "train") -> Progress:
        return Progress(phase=phase, step=step, steps=9, seconds_left=1.5, numbers={"in_band": 2})

    tell(at(1))
    assert said() == {"phase": "train", "step": 1, "steps": 9, "seconds_left": 1.5, "in_band": 2}
    tell(at(2))
    assert said()["step"] == 1
    tell(at(9))
    assert said()["step"] == 9
    tell(at(1, "unlearn"))
    assert said()["phase"] == "unlearn"
