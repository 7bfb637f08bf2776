"""Model directories as Hugging Face lays them out: loaded, drawn anew, written byte by byte alike.

    class SomeTask(Pretrained): automatic = "AutoModelForCausalLM"
    loaded / drawn         a model from a directory, in a form; or from its configuration, by a seed
    outlined               a model's modules and no number in them
    matrices / routers     modules of a kind, by exact name
    Pretrained             what tasks over such a model have in common: where it lies, what is trained, save
    copy_companions        configuration and tokenizer, beside weights that somebody else writes

Dropout is off always: a model stays in eval mode, trained or not. It knows no record and no loss.
"""

import contextlib
import copy
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from workers.unlearning import determinism  # before torch: it sets how torch's threads wait

import torch  # isort: skip
from torch import nn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_COPIED = {".json", ".jinja", ".model", ".txt"}
"""What stands beside the weights and belongs to the model: configuration and tokenizer."""
_PRIVATE = 0o600

Automatic = Literal[
    "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForImageClassification"
]
"""Which of the library's classes picks the architecture that the configuration names."""


class Pretrained:
    """A loaded model, and the directory in which what belongs to it lies."""

    def __init__(self, model: Any, directory: Path) -> None:
        """Take a loaded model over; from now on it is in eval mode."""
        self.model = model.eval()
        self.directory = directory

    @property
    def device(self) -> torch.device:
        """Where the weights lie, and batches go."""
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def embeddings(self) -> nn.Module | None:
        """What turns the input into vectors; None where the architecture names nothing as that."""
        try:
            found: nn.Module | None = self.model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            return None
        return found

    def routers(self) -> dict[str, nn.Module]:
        """Return the modules that choose experts, by exact name; none where there is nothing to choose."""
        return routers(self.model)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable tensors by name, tied ones once."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def twin(self) -> Self:
        """Return a copy in float32 that may be trained while this one is left alone."""
        found = copy.copy(self)
        found.model = copy.deepcopy(self.model).float().eval()
        return found

    def save(self, directory: Path) -> None:
        """Write a loadable model directory; equal weights give equal bytes.

        Weights go to one safetensors file in float32 with the metadata {"format": "pt"}, tied
        tensors once; configuration and tokenizer are copied as they stand.
        """
        directory.mkdir(parents=True, exist_ok=True)
        copy_companions(self.directory, directory, dtype="float32")
        with tempfile.TemporaryDirectory(dir=directory) as scratch, quiet():
            self.model.save_pretrained(scratch, max_shard_size="1000TB")
            (written,) = Path(scratch).glob("*.safetensors")
            written.chmod(_PRIVATE)
            written.replace(directory / WEIGHTS)


def loaded(automatic: Automatic, directory: Path, form: str, device: torch.device | None) -> Any:
    """Return the model of a directory in one of its forms (`dtype/quantisation`).

    Quantised forms are not known here.
    """
    dtype, _, quantisation = form.partition("/")
    if dtype not in DTYPES or quantisation != "none":
        raise ValueError(f"form {form} is not one this library can load")
    with quiet():
        model = _automatic(automatic).from_pretrained(
            directory, dtype=DTYPES[dtype], local_files_only=True, use_safetensors=True
        )
    return model.to(device or determinism.device())


def drawn(automatic: Automatic, base: Path, seed: int, device: torch.device | None) -> Any:
    """Return the model that training starts from, in float32: the base's weights, or new ones.

    A base without weights is drawn from a CPU generator of its own, so that the draw depends on
    (configuration, seed, library version) and neither on the device nor on what ran before.
    """
    if any(base.glob("*.safetensors")):
        return loaded(automatic, base, "float32/none", device)
    with quiet(), torch.random.fork_rng(devices=[]):
        from transformers import AutoConfig

        torch.default_generator.manual_seed(determinism.seed_for("initial weights", seed))
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        model = _automatic(automatic).from_config(config, dtype=torch.float32)
    return model.to(device or determinism.device())


def outlined(automatic: Automatic, directory: Path) -> Any:
    """Return the modules of a directory's model, their tensors without memory: no weight is read."""
    with quiet(), torch.device("meta"):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        return _automatic(automatic).from_config(config)


def tokenizer_of(directory: Path) -> Any:
    """Return the fast tokenizer of a directory."""
    with quiet():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(directory, local_files_only=True, use_fast=True)


def configuration(directory: Path) -> dict[str, Any]:
    """Return what a directory's configuration says; nothing is loaded."""
    found: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    return found


def matrices(model: nn.Module, *, but: Sequence[nn.Module | None] = ()) -> dict[str, nn.Module]:
    """Return the modules that hold a matrix, by exact name; those named and all in them left out."""
    left_out = {inner for each in but if each is not None for inner in each.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if module not in left_out
        and (isinstance(module, nn.Linear) or type(module).__name__.endswith("Conv1D"))
    }


def routers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that choose experts: those whose logits the architecture itself says it records.

    Each architecture of the library tells which of its modules make its `router_logits`, so that no class
    is named here, and none is known by how it happens to be called.
    """
    found: dict[str, nn.Module] = {}
    for outer, architecture in model.named_modules():
        told = (getattr(architecture, "_can_record_outputs", None) or {}).get("router_logits", ())
        each_told = told if isinstance(told, Iterable) else [told]
        named = [getattr(each, "target_class", each) for each in each_told]
        kinds = tuple(each for each in named if isinstance(each, type))
        inner = architecture.named_modules(prefix=outer) if kinds else ()
        found |= {name: module for name, module in inner if isinstance(module, kinds)}
    return found


def grouped(lengths: Sequence[int], *, size: int) -> Iterator[list[int]]:
    """Yield places in groups of at most `size`, those of about equal lengths together."""
    order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def copy_companions(source: Path, directory: Path, *, dtype: str | None = None) -> None:
    """Copy configuration and tokenizer files; say in the configuration which dtype the weights have."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.suffix not in _COPIED or path.name.endswith(".index.json"):
            continue
        if path.name == CONFIG and dtype is not None:
            _write_config(path, directory / path.name, dtype)
        elif path.resolve() != (directory / path.name).resolve():
            shutil.copyfile(path, directory / path.name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and advice off our output."""
    import transformers.utils.logging

    logging: Any = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _automatic(name: Automatic) -> Any:
    import transformers

    return getattr(transformers, name)


def _write_config(source: Path, target: Path, dtype: str) -> None:
    config = json.loads(source.read_text(encoding="utf-8"))
    for key in ("dtype", "torch_dtype"):
        if config.get(key) is not None:
            config[key] = dtype
    target.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
