"""A version's weights in the store: put there and read back, and removed for good; needs no session.

Weights first, then the row that names them; the row first when they go. What several versions share
stays as long as one of them needs it.
"""

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from app.errors import Invalid
from app.registry import manifest
from app.storage.objects import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A directory that is in the store now, and was read back from there."""

    manifest: str
    """Hex SHA-256 of the manifest: the version's digest."""
    body: bytes
    tensor_root: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """What is to be destroyed: a version or a reference, and what it has in the store."""

    kind: str
    """`version`, `reference` or `history`."""
    id: UUID
    manifest: str | None
    apart: tuple[str, ...] = ()
    """Objects that no manifest names: a delta, and what was left for the job after it."""
    history: str | None = None


def adopt(objects: ObjectStore, directory: Path) -> Adopted:
    """Put a model directory into the store, read all of it back, and return what names it."""
    files = objects.put_tree(directory)
    weights = [file for file in files if file.path.endswith(manifest.WEIGHTS)]
    if not weights:
        raise Invalid("a model directory has no safetensors file", code="no-weights")
    built = manifest.build(files)
    digest = _kept(objects, built)
    with ExitStack() as stack:
        root = manifest.tensor_root([stack.enter_context(objects.reading(file.digest)) for file in weights])
    return Adopted(
        manifest=digest, body=built.manifest, tensor_root=root, size=sum(file.size for file in files)
    )


def keep_base(objects: ObjectStore, directory: Path) -> str:
    """Put a base directory into the store, with or without weights; return its manifest's digest.

    A job of next year starts from these bytes, whatever has happened to the directory by then.
    """
    files = objects.put_tree(directory)
    if not files:
        raise Invalid("a base directory is empty", code="base-empty")
    return _kept(objects, manifest.build(files))


def keep_history(objects: ObjectStore, directory: Path) -> str:
    """Put what the recorder left of a training into the store; return its manifest's digest."""
    return _kept(objects, manifest.build(objects.put_tree(directory)))


def _kept(objects: ObjectStore, built: manifest.Built) -> str:
    """Store a manifest and its configuration, and read back everything it names."""
    objects.put_bytes(built.config)
    digest = objects.put_manifest(built.manifest)
    for blob in sorted(manifest.blobs(built.manifest)):
        objects.check(blob)
    return digest


def destroy(
    objects: ObjectStore, gone: Doomed, *, manifests_kept: Iterable[str], apart_kept: Collection[str]
) -> int:
    """Remove from the store what only the doomed one needs; return how many objects that were.

    Twice is as good as once: a manifest that is gone already leaves nothing to look up.
    """
    kept = set(manifests_kept)
    removed = 0
    for doomed in (gone.manifest, gone.history):
        if doomed is None or doomed in kept or not objects.has(doomed):
            continue
        shared = {
            blob
            for digest in kept
            if objects.has(digest)
            for blob in manifest.blobs(objects.get_manifest(digest))
        }
        own = manifest.blobs(objects.get_manifest(doomed)) - shared - set(apart_kept)
        # The manifest goes last: killed before that, the next try still knows the blobs.
        removed += objects.delete(sorted(own)) + objects.delete([doomed])
    return removed + objects.delete([each for each in gone.apart if each not in apart_kept])
