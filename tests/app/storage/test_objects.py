"""The store: whole or absent, compared whenever read, never outside of its directory."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from app.errors import Conflict, Invalid, NotFound
from app.registry import manifest
from app.storage.objects import TEMPORARY_SECONDS, LocalStore, ObjectStore

WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    opened = ObjectStore.open((tmp_path / "store with space").as_uri())
    assert isinstance(opened, LocalStore)
    return opened


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(WEIGHTS)
    (directory / "sub" / "merges.txt").write_text("a b\n")
    return directory


def put(store: ObjectStore, directory: Path) -> str:
    return store.put_manifest(manifest.build(store.put_tree(directory)).manifest)


def blob(store: LocalStore, digest: str) -> Path:
    return store.root / "blobs" / "sha256" / digest[:2] / digest


def spoil(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_an_object_lies_under_its_hash(store: LocalStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"abc")
    assert digest == sha256(b"abc").hexdigest()
    assert blob(store, digest).read_bytes() == b"abc"
    (tmp_path / "file").write_bytes(b"abc")
    assert store.put_file(tmp_path / "file") == digest
    assert store.get_bytes(digest) == b"abc"
    assert store.has(digest)
    assert not list((store.root / "temporary").iterdir())


def test_a_directory_comes_back_as_it_was(store: LocalStore, model: Path, tmp_path: Path) -> None:
    digest = put(store, model)
    for link in (False, True):
        out = store.stage(digest, tmp_path / f"out-{link}", link=link)
        assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
            p.relative_to(model): p.read_bytes() for p in model.rglob("*") if p.is_file()
        }
    assert (tmp_path / "out-True" / "config.json").stat().st_nlink == 2
    assert (tmp_path / "out-False" / "config.json").stat().st_nlink == 1


def test_staging_again_replaces_what_was_there(store: LocalStore, model: Path, tmp_path: Path) -> None:
    digest = put(store, model)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "left over").write_text("from a try that was killed")
    out = store.stage(digest, tmp_path / "out")
    assert not (out / "left over").exists()


def test_a_corrupt_blob_is_never_handed_out(store: LocalStore, model: Path, tmp_path: Path) -> None:
    digest = put(store, model)
    spoilt = sha256(WEIGHTS).hexdigest()
    spoil(blob(store, spoilt))
    for ask in (
        lambda: store.check(spoilt),
        lambda: store.get_bytes(spoilt),
        lambda: store.fetch(spoilt, tmp_path / "file"),
        lambda: store.stage(digest, tmp_path / "out"),
        lambda: store.stage(digest, tmp_path / "out", link=True),
    ):
        with pytest.raises(Conflict) as corrupt:
            ask()
        assert corrupt.value.code == "object-corrupt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "store with space"]


def test_putting_the_same_bytes_again_repairs_a_corrupt_blob(store: LocalStore) -> None:
    digest = store.put_bytes(b"abc")
    spoil(blob(store, digest))
    assert store.put_bytes(b"abc") == digest
    store.check(digest)
    assert list(blob(store, digest).parent.iterdir()) == [blob(store, digest)]


def test_a_corrupt_manifest_is_refused(store: LocalStore, model: Path, tmp_path: Path) -> None:
    digest = put(store, model)
    spoil(store.root / "manifests" / "sha256" / digest)
    with pytest.raises(Conflict):
        store.stage(digest, tmp_path / "out")


def test_a_manifest_needs_its_blobs(store: LocalStore, model: Path) -> None:
    built = manifest.build(store.put_tree(model))
    store.delete([sha256(b"{}").hexdigest()])
    with pytest.raises(NotFound):
        store.put_manifest(built.manifest)


@pytest.mark.parametrize("path", ["../escape", "/etc/escape", "a/../../escape", "", "a\\b"])
def test_a_manifest_cannot_write_outside(store: LocalStore, path: str, tmp_path: Path) -> None:
    digest = store.put_bytes(b"abc")
    layer = {"digest": f"sha256:{digest}", "annotations": {"org.cncf.model.filepath": path}}
    with pytest.raises(Invalid):
        store.put_manifest(json.dumps({"layers": [layer]}).encode())


@pytest.mark.parametrize("digest", ["", "../../x", "A" * 64, "a" * 63, "a" * 65])
def test_what_is_no_digest_names_nothing(store: LocalStore, digest: str) -> None:
    with pytest.raises(Invalid):
        store.get_bytes(digest)


def test_deleting_twice_is_deleting_once(store: LocalStore, model: Path) -> None:
    digest = put(store, model)
    assert store.delete([digest, "a" * 64]) == 1
    assert store.delete([digest]) == 0
    with pytest.raises(NotFound):
        store.get_manifest(digest)


@pytest.mark.parametrize("url", ["s3://bucket/x", "relative/path"])
def test_other_stores_are_refused(url: str) -> None:
    with pytest.raises(Invalid):
        ObjectStore.open(url)


def _put_and_die(root: Path) -> None:
    os.environ["LETHE_FAILPOINT"] = "objects-before-link"
    LocalStore(root).put_bytes(b"abc")


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_that_counts(store: LocalStore) -> None:
    """Killed between the temporary file and its name: the next writer succeeds, and the rest is swept."""
    victim = multiprocessing.get_context("spawn").Process(target=_put_and_die, args=(store.root,))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    digest = sha256(b"abc").hexdigest()
    assert not store.has(digest)
    [left] = (store.root / "temporary").iterdir()
    assert store.put_bytes(b"abc") == digest
    assert store.tidy() == 0, "it may be somebody's who is still writing"
    long_ago = time.time() - TEMPORARY_SECONDS - 1
    os.utime(left, (long_ago, long_ago))
    assert store.tidy() == 1


def test_two_writers_of_the_same_bytes_agree(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the name taken, in between its own writing and naming."""
    rival = LocalStore(store.root)
    link: Callable[..., None] = os.link

    def late(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        rival.put_bytes(b"abc")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    digest = store.put_bytes(b"abc")
    assert store.get_bytes(digest) == b"abc"
    assert not list((store.root / "temporary").iterdir())
