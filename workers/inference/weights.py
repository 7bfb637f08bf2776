"""From a directory of files to weights on the device, and back: is what serves what was certified?

Files are hashed when they are fetched. That says nothing about what a loader made of them: renamed,
fused, left out and initialised at random, converted. So the tensors are read back from the device,
under the names of the files, and hashed as the manifest's tensor root is. Weights must also not
change after the check, so they are copied out of the mapped file.
"""

import hashlib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from app.errors import Invalid
from app.registry import manifest
from workers.unlearning.task import CausalLM  # before torch: it sets how torch's threads wait

import torch  # isort: skip
from safetensors import safe_open
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

FORMS = {"float32/none": torch.float32, "bfloat16/none": torch.bfloat16, "float16/none": torch.float16}
"""Forms this server can serve; a quantised form has files, and so a manifest, of its own."""

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"} | {
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def load(directory: Path, form: str) -> tuple[Any, Any]:
    """Return the model on the device, in the form, ready to answer; and its tokenizer."""
    if form not in FORMS:
        raise Invalid(f"this server does not serve the form {form}; it serves {', '.join(FORMS)}")
    # By the same code that measures it: what is verified is what is served.
    loaded = CausalLM.load(directory, form=form)
    model = loaded.model.requires_grad_(False)  # noqa: FBT003  torch's own signature
    for tensor in chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()
    return model, loaded.tokenizer


def stored(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a directory's safetensors files, by name."""
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                yield name, file.get_tensor(name)


def read_back(model: Any, directory: Path, form: str) -> tuple[str, str]:
    """Return the tensor root of the files, and that of what is on the device; refuse a difference.

    The two are equal unless the form converts. Then each tensor must equal the file's, converted.
    A tensor on the device that no file holds, and that is not tied to one that does, is refused too.
    """
    held: Mapping[str, Tensor] = revert_weight_conversion(model, model.state_dict())
    if not isinstance(held, Mapping):
        held = dict(held)
    in_files, on_device, storages = [], [], set()
    for name, tensor in stored(directory):
        mine = held.get(name)
        if mine is None:
            raise Invalid(f"tensor {name} of the files is not on the device under that name")
        storages.add(mine.data_ptr())
        entry = _entry(name, mine)
        wanted = tensor.to(FORMS[form]) if tensor.is_floating_point() else tensor
        if entry != _entry(name, wanted):
            raise Invalid(f"tensor {name} on the device is not the one in the files")
        in_files.append(_entry(name, tensor))
        on_device.append(entry)
    strangers = [name for name, tensor in held.items() if tensor.data_ptr() not in storages]
    if strangers:
        raise Invalid(f"tensor {strangers[0]} on the device is in none of the files")
    return manifest.root(in_files), manifest.root(on_device)


def _entry(name: str, tensor: Tensor) -> tuple[bytes, bytes]:
    plain = tensor.detach().cpu().contiguous()
    raw = plain.reshape(-1).view(torch.uint8) if plain.numel() else plain.new_empty(0, dtype=torch.uint8)
    digest = hashlib.sha256(raw.numpy().data).digest()
    return manifest.entry(name=name, dtype=_NAMES[plain.dtype], shape=plain.shape, digest=digest)
