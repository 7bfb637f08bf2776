"""What names a version: an OCI image manifest over its files, and a Merkle root over its tensors.

    manifest      RFC 8785 bytes; layers by path; its SHA-256 is the version's digest
                  (media types and path annotation of modelpack/model-spec)
    tensor root   MTH (RFC 6962) over JCS({"dtype", "name", "shape"}) || SHA-256(little-endian bytes),
                  sorted by UTF-8 name, dtype named as in safetensors, tied weights once as in the file

Cutting the same tensors into other files changes the manifest and not the root. Pure: bytes and open
files in, bytes out; safetensors is read here by its format (8 bytes of length, JSON, data), since the
app runs without a GPU stack.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

from app.errors import Invalid
from app.signing.canonical import encode
from app.transparency import tree

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
FILEPATH = "org.cncf.model.filepath"

WEIGHTS = ".safetensors"
HEADER_BYTES_MAX = 100_000_000
"""As safetensors itself has it."""
CHUNK_BYTES = 4 * 1024 * 1024

_OF_BITS = {
    64: "F64 I64 U64",
    32: "F32 I32 U32",
    16: "F16 BF16 I16 U16",
    8: "F8_E4M3 F8_E5M2 F8_E8M0 I8 U8 BOOL",
}
BITS = {dtype: bits for bits, dtypes in _OF_BITS.items() for dtype in dtypes.split()}


class File(Protocol):
    """A file of a version and its digest."""

    @property
    def path(self) -> str:
        """Return where it stands in the model's directory."""

    @property
    def digest(self) -> str:
        """Return its hex SHA-256."""

    @property
    def size(self) -> int:
        """Return its bytes."""


class Built(NamedTuple):
    """A manifest and the configuration blob it names."""

    manifest: bytes
    config: bytes


class Layer(NamedTuple):
    """One file as a manifest names it."""

    path: str
    digest: str
    size: int
    weights: bool


def build(files: Sequence[File]) -> Built:
    """Return the manifest of a directory's files; the same files give the same bytes."""
    ordered = sorted(files, key=lambda file: file.path.encode())
    assert len({file.path for file in ordered}) == len(ordered), "a path is one file"
    config = encode(
        {
            "config": {"format": "safetensors"},
            "descriptor": {},
            "modelfs": {"diffIds": [f"sha256:{file.digest}" for file in ordered], "type": "layers"},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {
            "mediaType": CONFIG_TYPE,
            "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": WEIGHT_TYPE if file.path.endswith(WEIGHTS) else WEIGHT_CONFIG_TYPE,
                "digest": f"sha256:{file.digest}",
                "size": file.size,
                "annotations": {FILEPATH: file.path},
            }
            for file in ordered
        ],
    }
    return Built(encode(manifest), config)


def layers(manifest: bytes) -> list[Layer]:
    """Return the files that a manifest names."""
    return [
        Layer(
            path=layer["annotations"][FILEPATH],
            digest=layer["digest"].removeprefix("sha256:"),
            size=layer["size"],
            weights=layer["mediaType"] == WEIGHT_TYPE,
        )
        for layer in json.loads(manifest)["layers"]
    ]


def blobs(manifest: bytes) -> frozenset[str]:
    """Return the digest of every blob that a manifest needs, the configuration included."""
    config: str = json.loads(manifest)["config"]["digest"]
    return frozenset({config.removeprefix("sha256:"), *(layer.digest for layer in layers(manifest))})


def tensor_root(files: Iterable[BinaryIO]) -> str:
    """Return the hex root over the tensors of all these safetensors files together."""
    return root(entry for file in files for entry in _entries(file))


def root(entries: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the hex root over entries (see `entry`), wherever the tensors were read."""
    ordered = sorted(entries)
    names = [name for name, _ in ordered]
    if len(set(names)) != len(names):
        raise Invalid("a tensor is in two files", code="tensor-twice")
    return tree.root([tree.leaf_hash(entry) for _, entry in ordered]).hex()


def entry(*, name: str, dtype: str, shape: Sequence[int], digest: bytes) -> tuple[bytes, bytes]:
    """Return what stands for one tensor in the root: its UTF-8 name, to sort by, and what is hashed."""
    return name.encode(), encode({"dtype": dtype, "name": name, "shape": list(shape)}) + digest


def _entries(file: BinaryIO) -> list[tuple[bytes, bytes]]:
    """Return (UTF-8 name, entry) of each tensor of one file."""
    start, header = _header(file)
    found = []
    for name, told in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = told["dtype"], told["shape"], told["data_offsets"]
        bits = BITS.get(dtype)
        if bits is None or (end - begin) * 8 != bits * math.prod(shape):
            raise Invalid("a tensor's bytes do not fit its shape", code="safetensors-form")
        digest = _hash_of(file, start + begin, end - begin)
        found.append(entry(name=name, dtype=dtype, shape=shape, digest=digest))
    return found


def _header(file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Return where the data begins, and the header's JSON."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= HEADER_BYTES_MAX:
        raise Invalid("this is no safetensors file", code="safetensors-form")
    try:
        header = json.loads(file.read(length))
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise Invalid("this is no safetensors file", code="safetensors-form")
    return 8 + length, header


def _hash_of(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    running = hashlib.sha256()
    while length:
        chunk = file.read(min(CHUNK_BYTES, length))
        if not chunk:
            raise Invalid("a safetensors file is cut short", code="safetensors-form")
        running.update(chunk)
        length -= len(chunk)
    return running.digest()
