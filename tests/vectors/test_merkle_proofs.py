"""The published proofs of transparency-dev/merkle (`testdata/inclusion`, `testdata/consistency`), right and wrong.

They are not part of this project: `pytest --vectors FOLDER`, or the folder in LETHE_MERKLE_VECTORS.
"""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from app.certificates import check
from app.transparency import tree


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    chosen = request.config.getoption("--vectors", default=None) or os.environ.get("LETHE_MERKLE_VECTORS")
    if not chosen:
        pytest.skip("published Merkle vectors: name their folder with --vectors or LETHE_MERKLE_VECTORS")
    return Path(str(chosen))


def cases(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]
    assert len(found) == 98, f"{folder} is not the published set"
    return found


def raw(texts: list[str] | None) -> list[bytes]:
    return [base64.b64decode(text) for text in texts or []]


def test_inclusion(folder: Path) -> None:
    for case in cases(folder / "inclusion"):
        leaf, root, proof = *raw([case["leafHash"], case["root"]]), raw(case["proof"])
        index, size = case["leafIdx"], case["treeSize"]
        try:
            tree.verify_inclusion(index, size, leaf, proof, root)
            holds = True
        except tree.InvalidProof:
            holds = False
        assert holds != case["wantErr"], case["desc"]
        try:
            assert (check.inclusion_root(index, size, leaf, proof) == root) != case["wantErr"], case["desc"]
        except ValueError:
            assert case["wantErr"], case["desc"]


def test_consistency(folder: Path) -> None:
    for case in cases(folder / "consistency"):
        (old, new), proof = raw([case["root1"], case["root2"]]), raw(case["proof"])
        # One vector counts as valid with roots of 12 bytes ("don't care 2"): we take whole hashes only.
        refused = case["wantErr"] or {len(old), len(new)} != {tree.HASH_BYTES}
        try:
            tree.verify_consistency(case["size1"], case["size2"], old, new, proof)
            holds = True
        except tree.InvalidProof:
            holds = False
        assert holds != refused, case["desc"]
