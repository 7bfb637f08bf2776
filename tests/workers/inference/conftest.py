"""Two tiny random models that answer differently, a tokenizer trained here, a store, a replica."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from app.http import ids
from app.registry import manifest
from app.signing.keys import FileSigner, PublicKey
from app.storage.objects import ObjectStore
from app.tables.base import new_id
from workers.inference.replica import Replica
from workers.inference.state import Version

TEXT = [
    "The river runs past the mill and under the old stone bridge.",
    "Grüße aus Köln: naïve café, 東京 and a 😀 for everybody.",
    "Seventeen boats were counted in the harbour before noon.",
]
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
END = "<|end|>"

Publish = Callable[..., Version]


@dataclass(frozen=True)
class Adopted:
    manifest: str
    tensor_root: str


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="session")
def directories(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Model directories by name: "a", "b", and "chat", which is "a" with a chat template."""
    root = tmp_path_factory.mktemp("models")
    made = {name: root / name for name in ("a", "b", "chat")}
    for name, directory in made.items():
        torch.manual_seed({"a": 1, "b": 2, "chat": 1}[name])
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=96,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = GPT2LMHeadModel(config)
        with torch.no_grad():  # far from ties, so that greedy answers are stable and the models differ
            for parameter in model.parameters():
                parameter.mul_(3)
        model.save_pretrained(directory)
        tokenizer.chat_template = CHAT if name == "chat" else None
        tokenizer.save_pretrained(directory)
    tokenizer.chat_template = None
    return made


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open((tmp_path / "store").as_uri())


@pytest.fixture
def adopted(store: ObjectStore, directories: dict[str, Path]) -> dict[str, Adopted]:
    return {name: adopt(store, directory) for name, directory in directories.items()}


def adopt(store: ObjectStore, directory: Path) -> Adopted:
    built = manifest.build(store.put_tree(directory))
    store.put_bytes(built.config)
    with (directory / "model.safetensors").open("rb") as file:
        return Adopted(store.put_manifest(built.manifest), manifest.tensor_root([file]))


@pytest.fixture
def order(adopted: dict[str, Adopted]) -> Publish:
    """Return the order to serve one of the models."""

    def make(name: str, epoch: int, *, erasure_epoch: int = 0, **other: Any) -> Version:
        values: dict[str, Any] = {
            "model": "line",
            "version": ids.encode("mv", new_id()),
            "manifest": adopted[name].manifest,
            "tensor_root": adopted[name].tensor_root,
            "form": "float32/none",
            "publish_epoch": epoch,
            "erasure_epoch": erasure_epoch,
        }
        return Version(**(values | other))

    return make


@pytest.fixture
def start(tmp_path: Path, store: ObjectStore) -> Callable[[], Replica]:
    """Return the way to start a replica, again and again, over the same directory."""

    def make() -> Replica:
        key = Ed25519PrivateKey.generate()
        return Replica(
            directory=tmp_path / "serving",
            objects=store,
            signer=FileSigner(public=PublicKey.of(key.public_key()), private=key),
        )

    return make


@pytest.fixture
def replica(start: Callable[[], Replica]) -> Iterator[Replica]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield start()
    torch.set_num_threads(threads)


@pytest.fixture
def serve(replica: Replica, order: Publish) -> Publish:
    """Return the way to publish a model to the replica, whole."""

    def publish(name: str, epoch: int, **other: Any) -> Version:
        version = order(name, epoch, **other)
        replica.load(version, erasure_floor=0)
        replica.swap(version.model, publish_epoch=epoch)
        replica.drain(version.model, deadline_seconds=5)
        return version

    return publish
