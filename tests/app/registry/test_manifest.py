"""What names a version: the published root, and what may and may not change it."""

import io
import json
import struct
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.registry import manifest
from app.storage.objects import StoredFile

Tensors = dict[str, tuple[str, list[int], bytes]]

VECTOR: Tensors = {
    "a.w": ("F32", [4], bytes(16)),
    "b.w": ("BF16", [3, 2], b"\x80\x3f" * 6),  # 1.0 in bfloat16, little-endian
}


def safetensors(tensors: Tensors, *, metadata: dict[str, str] | None = None) -> io.BytesIO:
    """Return a file by the format's description: length, JSON header, data in order."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return io.BytesIO(struct.pack("<Q", len(text)) + text + data)


def test_the_published_root() -> None:
    root = manifest.tensor_root([safetensors(VECTOR)])
    assert root == "b1a39ae6a53d441efdc00d65518f36d8477dbd4b62cf92a5d4bb36101ccc0359"


def test_files_metadata_and_order_do_not_change_the_root() -> None:
    whole = manifest.tensor_root([safetensors(VECTOR)])
    backwards = dict(reversed(VECTOR.items()))
    assert manifest.tensor_root([safetensors(backwards, metadata={"format": "pt"})]) == whole
    parts = [safetensors({name: tensor}) for name, tensor in backwards.items()]
    assert manifest.tensor_root(parts) == whole


@given(st.sampled_from(sorted(VECTOR)), st.integers(0, 95))
def test_every_bit_of_a_tensor_counts(name: str, bit: int) -> None:
    dtype, shape, content = VECTOR[name]
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    changed = VECTOR | {name: (dtype, shape, bytes(flipped))}
    assert manifest.tensor_root([safetensors(changed)]) != manifest.tensor_root([safetensors(VECTOR)])


@pytest.mark.parametrize(
    "changed",
    [
        {"a.x": VECTOR["a.w"], "b.w": VECTOR["b.w"]},
        VECTOR | {"a.w": ("I32", [4], bytes(16))},
        VECTOR | {"a.w": ("F32", [2, 2], bytes(16))},
        {"a.w": VECTOR["a.w"]},
    ],
)
def test_name_dtype_and_shape_count(changed: Tensors) -> None:
    assert manifest.tensor_root([safetensors(changed)]) != manifest.tensor_root([safetensors(VECTOR)])


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(b""),
        io.BytesIO(b"\xff" * 64),
        io.BytesIO(struct.pack("<Q", 2) + b"[]"),
        io.BytesIO(struct.pack("<Q", 4) + b"{nop"),
        io.BytesIO(safetensors(VECTOR).getvalue()[:-1]),
        safetensors({"a": ("F32", [5], bytes(16))}),
        safetensors({"a": ("F3", [4], bytes(16))}),
    ],
)
def test_what_is_no_safetensors_file_is_refused(file: io.BytesIO) -> None:
    with pytest.raises(Invalid):
        manifest.tensor_root([file])


def test_a_tensor_cannot_be_in_two_files() -> None:
    with pytest.raises(Invalid):
        manifest.tensor_root([safetensors(VECTOR), safetensors(VECTOR)])


def files() -> list[StoredFile]:
    return [
        StoredFile(path=path, digest=sha256(path.encode()).hexdigest(), size=size)
        for path, size in (("model.safetensors", 3), ("config.json", 2), ("tokenizer.json", 1))
    ]


def test_the_same_files_give_the_same_manifest_in_any_order() -> None:
    built = manifest.build(files())
    assert manifest.build(files()[::-1]) == built
    parsed = json.loads(built.manifest)
    assert parsed["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert parsed["config"]["digest"] == f"sha256:{sha256(built.config).hexdigest()}"
    assert [layer["annotations"]["org.cncf.model.filepath"] for layer in parsed["layers"]] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert [layer["mediaType"].rpartition("weight")[2] for layer in parsed["layers"]] == [
        ".config.v1.raw",
        ".v1.raw",
        ".config.v1.raw",
    ]


def test_a_manifest_tells_its_blobs() -> None:
    built = manifest.build(files())
    digests = {file.digest for file in files()}
    assert {layer.digest for layer in manifest.layers(built.manifest)} == digests
    assert manifest.blobs(built.manifest) == digests | {sha256(built.config).hexdigest()}
