"""The content-addressed store: what is in it is named by its SHA-256, and checked whenever it is read.

    blobs/sha256/ab/abcd...      files of models, and deltas; the address is the hash of the bytes
    manifests/sha256/abcd...     what makes a version: an OCI image manifest that names blobs
    temporary/                   what is being written; a killed writer leaves its file here, and only here

An object appears whole or not at all: temporary file, fsync, `link`, which fails if another was
first. Nothing is ever changed in place. Who still needs an object is not known here: references
live in the database, so whoever deletes has asked there before.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from app.errors import Conflict, Invalid, NotFound
from app.failpoints import reach
from app.storage.locations import local_path

CHUNK_BYTES = 4 * 1024 * 1024
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
TEMPORARY_SECONDS = 24 * 3600
FILEPATH = "org.cncf.model.filepath"
DIGEST_DIGITS = 64


class ObjectCorrupt(Conflict):
    """What is stored under a digest has another one."""

    code = "object-corrupt"

    def __init__(self, digest: str) -> None:
        """Say which."""
        super().__init__(f"the stored object {digest} does not have this hash")


class ObjectMissing(NotFound):
    """Nothing is stored under a digest."""

    code = "object-missing"

    def __init__(self, digest: str) -> None:
        """Say which."""
        super().__init__(f"there is no stored object {digest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a directory that was put: its path in there, and the blob it became."""

    path: str
    digest: str
    size: int


class ObjectStore(Protocol):
    """What a store can do; `open` returns the one that a URL names."""

    @staticmethod
    def open(url: str) -> "ObjectStore":
        """Return the store at a `file:` URL or an absolute path."""
        path = local_path(url)
        if path is None or not path.is_absolute():
            raise Invalid("a store is a file: URL or an absolute path", code="storage-scheme")
        return LocalStore(path)

    def put_bytes(self, content: bytes) -> str:
        """Store bytes as a blob; return the digest."""

    def put_file(self, path: Path) -> str:
        """Store a file as a blob; return the digest."""

    def put_tree(self, directory: Path) -> list[StoredFile]:
        """Store every file of a directory as a blob, in order of their paths."""

    def put_manifest(self, body: bytes) -> str:
        """Store a manifest; its blobs must be there before it."""

    def get_bytes(self, digest: str) -> bytes:
        """Return a blob, compared with its digest."""

    def get_manifest(self, digest: str) -> bytes:
        """Return a manifest, compared with its digest."""

    def has(self, digest: str) -> bool:
        """Return whether a blob or a manifest is there, without reading it."""

    def check(self, digest: str) -> None:
        """Read a blob and compare it with its digest."""

    def reading(self, digest: str) -> AbstractContextManager[BinaryIO]:
        """Open a blob for seeking; what is read so is not compared."""

    def fetch(self, digest: str, into: Path, *, link: bool = False) -> None:
        """Make a blob a file, compared while it is read; `link` shares the bytes with a careful reader."""

    def stage(self, manifest: str, into: Path, *, link: bool = False) -> Path:
        """Make a manifest a directory, every file compared; nothing is there if one differs."""

    def delete(self, digests: Iterable[str]) -> int:
        """Remove blobs and manifests; return how many were there."""

    def tidy(self) -> int:
        """Remove what killed writers left a day ago; return how many files."""


class LocalStore(ObjectStore):
    """The store in a directory of this machine, or of a file system that several mount."""

    def __init__(self, root: Path) -> None:
        """Use `root`; it is made by the first write."""
        self.root = root

    def put_bytes(self, content: bytes) -> str:
        """Store bytes as a blob; return the digest."""
        digest = hashlib.sha256(content).hexdigest()
        with self._writer() as file:
            file.write(content)
            self._publish(file, self._blob(digest), digest)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file as a blob; it is hashed as it is copied, so that is what was copied."""
        running = hashlib.sha256()
        with path.open("rb") as source, self._writer() as file:
            while chunk := source.read(CHUNK_BYTES):
                running.update(chunk)
                file.write(chunk)
            digest = running.hexdigest()
            self._publish(file, self._blob(digest), digest)
        return digest

    def put_tree(self, directory: Path) -> list[StoredFile]:
        """Store every file of a directory as a blob, in order of their paths."""
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        return [
            StoredFile(
                path=path.relative_to(directory).as_posix(),
                digest=self.put_file(path),
                size=path.stat().st_size,
            )
            for path in files
        ]

    def put_manifest(self, body: bytes) -> str:
        """Store a manifest; its blobs must be there before it."""
        for digest in [digest for _, digest in _layers(body)]:
            if not self._blob(digest).exists():
                raise ObjectMissing(digest)
        digest = hashlib.sha256(body).hexdigest()
        with self._writer() as file:
            file.write(body)
            self._publish(file, self._manifest(digest), digest)
        return digest

    def get_bytes(self, digest: str) -> bytes:
        """Return a blob, compared with its digest."""
        return _compared(self._blob(digest), digest)

    def get_manifest(self, digest: str) -> bytes:
        """Return a manifest, compared with its digest."""
        path = self._manifest(digest)
        if path.exists() and path.stat().st_size > MANIFEST_BYTES_MAX:
            raise ObjectCorrupt(digest)
        return _compared(path, digest)

    def has(self, digest: str) -> bool:
        """Return whether a blob or a manifest is there, without reading it."""
        return self._blob(digest).exists() or self._manifest(digest).exists()

    def check(self, digest: str) -> None:
        """Read a blob and compare it with its digest."""
        with self.reading(digest) as file:
            if _digest(file) != digest:
                raise ObjectCorrupt(digest)

    @contextmanager
    def reading(self, digest: str) -> Iterator[BinaryIO]:
        """Open a blob for seeking; what is read so is not compared."""
        try:
            file = self._blob(digest).open("rb")
        except FileNotFoundError:
            raise ObjectMissing(digest) from None
        with file:
            yield file

    def fetch(self, digest: str, into: Path, *, link: bool = False) -> None:
        """Make a blob a file, compared while it is read; `link` shares the bytes with a careful reader."""
        partial = into.with_name(f"{into.name}.part")
        partial.unlink(missing_ok=True)  # Of an earlier try that was killed.
        if link and self._linked(digest, partial):
            partial.replace(into)
            return
        running = hashlib.sha256()
        with self.reading(digest) as source, partial.open("xb") as file:
            while chunk := source.read(CHUNK_BYTES):
                running.update(chunk)
                file.write(chunk)
        if running.hexdigest() != digest:
            partial.unlink()
            raise ObjectCorrupt(digest)
        partial.replace(into)

    def stage(self, manifest: str, into: Path, *, link: bool = False) -> Path:
        """Make a manifest a directory, every file compared; nothing is there if one differs."""
        layers = _layers(self.get_manifest(manifest))
        into.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=into.parent, prefix=f".{into.name}."))
        try:
            for path, digest in layers:
                target = partial / path
                target.parent.mkdir(parents=True, exist_ok=True)
                self.fetch(digest, target, link=link)
            if into.exists():
                shutil.rmtree(into)  # An earlier try of the same stage, which may be incomplete.
            partial.rename(into)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return into

    def delete(self, digests: Iterable[str]) -> int:
        """Remove blobs and manifests; return how many were there."""
        removed = 0
        for digest in digests:
            for path in (self._blob(digest), self._manifest(digest)):
                with suppress(FileNotFoundError):
                    path.unlink()
                    _sync(path.parent)
                    removed += 1
        return removed

    def tidy(self) -> int:
        """Remove what killed writers left a day ago; return how many files."""
        removed = 0
        for path in (self.root / "temporary").glob("*"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - TEMPORARY_SECONDS:
                    path.unlink()
                    removed += 1
        return removed

    def _blob(self, digest: str) -> Path:
        return self.root / "blobs" / "sha256" / _valid(digest)[:2] / digest

    def _manifest(self, digest: str) -> Path:
        return self.root / "manifests" / "sha256" / _valid(digest)

    @contextmanager
    def _writer(self) -> Iterator[BinaryIO]:
        """Open a temporary file of the store; whatever happens, its name is gone afterwards."""
        directory = self.root / "temporary"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=directory)
        try:
            os.close(handle)
            with Path(name).open("wb") as file:  # opened by name, so that `file.name` is one
                yield file
        finally:
            Path(name).unlink()

    def _publish(self, file: BinaryIO, final: Path, digest: str) -> None:
        """Give the finished temporary file its name; if another has it, that one must be whole."""
        file.flush()
        os.fchmod(file.fileno(), 0o400)
        os.fsync(file.fileno())
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        reach("objects-before-link")
        try:
            os.link(file.name, final)
        except FileExistsError:
            with final.open("rb") as known:
                whole = _digest(known) == digest
            if not whole:
                # A disk that lost bits: what was just written is the better copy.
                spare = final.with_name(f"{final.name}.{os.getpid()}")
                os.link(file.name, spare)
                spare.replace(final)
        _sync(final.parent)

    def _linked(self, digest: str, into: Path) -> bool:
        """Return whether the blob got a second name; not possible across file systems."""
        self.check(digest)
        try:
            os.link(self._blob(digest), into)
        except OSError:
            return False
        return True


def _valid(digest: str) -> str:
    """Return the digest if it is one: a path must not be made of anything else."""
    if len(digest) != DIGEST_DIGITS or not set(digest) <= set("0123456789abcdef"):
        raise Invalid("a digest has 64 lower-case hexadecimal digits", code="digest-form")
    return digest


def _layers(manifest: bytes) -> list[tuple[str, str]]:
    """Return (path, digest) of each layer; the paths stay inside of where they are put."""
    parsed: Mapping[str, Any] = json.loads(manifest)
    layers = [
        (str(layer["annotations"][FILEPATH]), str(layer["digest"]).removeprefix("sha256:"))
        for layer in parsed["layers"]
    ]
    for path, digest in layers:
        _valid(digest)
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise Invalid("a manifest names a path outside of its directory", code="manifest-path")
    return layers


def _compared(path: Path, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ObjectMissing(digest) from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise ObjectCorrupt(digest)
    return content


def _digest(file: BinaryIO) -> str:
    running = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        running.update(chunk)
    return running.hexdigest()


def _sync(directory: Path) -> None:
    """Make a name durable, or its removal."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
