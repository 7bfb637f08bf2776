"""Published signed notes, checkpoints, cosignatures, proofs, policies and tile paths, typed in as they stand.

Sources: golang.org/x/mod `sumdb/note/note_test.go` and `sumdb/tlog/note_test.go` (BSD-3-Clause); C2SP
`signed-note.md`, `tlog-checkpoint.md`, `tlog-cosignature.md`, `tlog-witness.md`, `tlog-proof.md`,
`tlog-tiles.md`, `tlog-policy.md`; transparency-dev/formats `note/note_cosigv1_test.go` (BSD-3-Clause),
`policy/tlog_policy_test.go`, `proof/tlog_proof_test.go` (Apache-2.0).
"""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.transparency import notes, proofs, tree
from app.transparency.checkpoint import Checkpoint
from app.transparency.notes import WITNESS_KIND, Note, NoteRefused, Signature, VerifierKey
from app.transparency.policies import Policy, PolicyRefused
from app.transparency.proofs import Proof
from app.transparency.tiles import ENTRIES, Tile, TileRefused, of_size

# golang.org/x/mod sumdb/note/note_test.go
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_SIG = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
ENOCH_SIG = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"

# C2SP signed-note.md
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"

# C2SP tlog-cosignature.md
SOFA = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""


def key(vkey: str) -> VerifierKey:
    return VerifierKey.parse(vkey)


def peters_private() -> Ed25519PrivateKey:
    raw = base64.b64decode(PETER_SECRET.split("+", 4)[4])
    assert raw[0] == notes.LOG_KIND
    return Ed25519PrivateKey.from_private_bytes(raw[1:])


def test_the_notes_of_go_are_opened() -> None:
    note = Note.parse(f"{TEXT}\n{PETER_SIG}{ENOCH_SIG}".encode())
    assert note.text == TEXT
    assert note.encode() == f"{TEXT}\n{PETER_SIG}{ENOCH_SIG}".encode()
    assert note.verified([key(PETER)]) == {key(PETER): None}
    assert set(note.verified([key(PETER), key(ENOCH)])) == {key(PETER), key(ENOCH)}
    with pytest.raises(NoteRefused, match="no key that is trusted"):
        note.verified([])


def test_the_note_of_go_is_signed_to_the_same_bytes() -> None:
    line = key(PETER).signature(TEXT, peters_private())
    assert Note(text=TEXT, signatures=(line,)).encode() == f"{TEXT}\n{PETER_SIG}".encode()


def test_a_doubled_signature_does_no_harm() -> None:
    strange = ENOCH_SIG[:60] + "ABCD" + ENOCH_SIG[60:]
    note = Note.parse(f"{TEXT}\n{PETER_SIG * 2}{ENOCH_SIG * 2}{strange}".encode())
    assert set(note.verified([key(PETER)])) == {key(PETER)}


@pytest.mark.parametrize(
    "note",
    [
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{PETER_SIG[:-1]}",
        f"\x01{TEXT}\n{PETER_SIG}",
        b"\xff" + f"{TEXT}\n{PETER_SIG}".encode(),
        f"{TEXT}\n— Bad Name x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=",
        f"{TEXT}\n{PETER_SIG}Unexpected line.\n",
        f"{TEXT}\n{PETER_SIG * 101}",
        f"{TEXT}\n— a+b ABCDABCD\n",
        f"{TEXT}\n— PeterNeumann x08go\n",
    ],
    ids=range(10),
)
def test_what_go_calls_malformed_is_refused(note: str | bytes) -> None:
    with pytest.raises(NoteRefused):
        Note.parse(note if isinstance(note, bytes) else note.encode())


def test_an_invalid_signature_of_a_known_key_refuses_the_note() -> None:
    wrong = PETER_SIG[:60] + "ABCD" + PETER_SIG[60:]
    for lines in (wrong, wrong + ENOCH_SIG):
        with pytest.raises(NoteRefused, match="PeterNeumann does not verify"):
            Note.parse(f"{TEXT}\n{lines}".encode()).verified([key(PETER), key(ENOCH)])
    misnamed = Note.parse(f"{TEXT}\n{PETER_SIG.replace('PeterNeumann', 'CarmenSandiego')}".encode())
    with pytest.raises(NoteRefused, match="no key that is trusted"):
        misnamed.verified([key(PETER)])


def test_every_mangling_of_a_verifier_key_is_refused() -> None:
    assert str(key(PETER)) == PETER
    cut = [PETER[i:j] for i in range(len(PETER) + 1) for j in range(i, len(PETER) + 1)]
    for mangled in [each for each in cut if each != PETER]:
        with pytest.raises(NoteRefused):
            key(mangled)
    for i in range(len(PETER)):
        with pytest.raises(NoteRefused):
            key(PETER[:i] + chr(ord(PETER[i]) + 1) + PETER[i + 1 :])


@pytest.mark.parametrize(
    "vkey",
    [
        # a key of the wrong length, and an unknown kind, each with its right id (note_test.go)
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        # note_cosigv1_test.go
        "bananas.sigstore.dev+12344556",
        "rekor.sigstore.dev+12345678+THIS_IS_NOT_BASE64!",
        "rekor.sigstore.dev+12345678+AwEB",
    ],
)
def test_other_keys_are_refused(vkey: str) -> None:
    with pytest.raises(NoteRefused):
        key(vkey)


@pytest.mark.parametrize(
    ("vkey", "kind"),
    [
        ("TEST+7997405c+AQcC+FTVKf0jlTdHDY3rbevmnKxxPjigCXlVtGe6RIr6", 0x01),
        ("remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", 0x04),
        ("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8", 0x01),
        (FOO, 0x01),
    ],
)
def test_published_verifier_keys_are_read(vkey: str, kind: int) -> None:
    assert (str(key(vkey)), key(vkey).kind) == (vkey, kind)


def test_the_note_of_the_specification() -> None:
    note = Note.parse(FOO_NOTE.encode())
    assert note.text == "This is an example message.\n"
    assert set(note.verified([key(FOO)])) == {key(FOO)}


def test_the_checkpoint_of_go_s_database() -> None:
    """sumdb/tlog/note_test.go: the text of a tree. What follows the third line is refused here."""
    golden = "go.sum database tree\n123456789012\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n"
    made = Checkpoint(origin="go.sum database tree", size=123456789012, root=tree.leaf_hash(b"hello world"))
    assert made.text == golden
    assert Checkpoint.parse(golden) == made
    for bad in (
        golden.replace("123456789012", "0xabcdef"),
        golden.replace(
            "TszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=", "TszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBTOOBIG="
        ),
        golden + "JOE",
        golden + "JOE\n",
        golden.replace("1234", "01234"),
        golden.replace("go.sum database tree", ""),
        golden.replace("123456789012", str(2**63)),
    ):
        with pytest.raises(NoteRefused):
            Checkpoint.parse(bad)


def test_the_checkpoint_and_the_cosignature_of_the_specification() -> None:
    note = Note.parse(SOFA.encode())
    found = Checkpoint.parse(note.text)
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    log, witness = note.signatures
    assert (log.name, witness.name) == ("example.com/behind-the-sofa", "witness.example.com/w1")
    assert witness.key_id.hex() == "8d66cf3f"
    assert int.from_bytes(witness.value[:8]) == 1679315147
    assert len(witness.value) == 8 + 64
    assert notes.cosigned(note.text, 1679315147) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


def test_the_time_of_a_published_cosignature() -> None:
    """note_cosigv1_test.go, TestCoSigV1Timestamp."""
    line = "— W ZGhGuQAAAABm/qTPeyKXD+R2rzyQsxPiP8mXum7qq/iF0u4vanlqJyocWODBt97w9uL+8qT7S5gxEHWWOworDcFiEBYJXORmnFBOBA==\n"
    assert int.from_bytes(Signature.parse(line).value[:8]) == 1727964367


def test_a_cosignature_covers_text_and_time() -> None:
    """As note_cosigv1_test.go has it: the same Ed25519 key under another kind is another key."""
    text = "test\n123\nf+7CoKgXKE/tNys9TTXcr/ad6U/K3xvznmzew9y6SP0=\n"
    private = peters_private()
    witness = VerifierKey(name="W", kind=WITNESS_KIND, public=private.public_key().public_bytes_raw())
    line = witness.signature(text, private, seconds=1_700_000_000)
    assert Note(text=text, signatures=(line,)).verified([witness]) == {witness: 1_700_000_000}
    later = Signature(name=line.name, key_id=line.key_id, value=(1_700_000_001).to_bytes(8) + line.value[8:])
    for changed in (Note(text=text, signatures=(later,)), Note(text=f"{text}Extendo\n", signatures=(line,))):
        with pytest.raises(NoteRefused):
            changed.verified([witness])
    with pytest.raises(NoteRefused, match="no key that is trusted"):
        Note(text=text, signatures=(line,)).verified([VerifierKey(name="W", kind=1, public=witness.public)])


# C2SP tlog-proof.md; transparency-dev/formats proof/tlog_proof_test.go


def test_a_proof_is_written_as_the_published_one() -> None:
    hashes = tuple(hashlib.sha256(each).digest() for each in (b"hash1", b"hash2"))
    first, second = proofs.encode_hashes(hashes)
    made = Proof(index=5, hashes=hashes, checkpoint=b"test checkpoint\n")
    assert made.encode().decode() == (
        f"c2sp.org/tlog-proof@v1\nindex 5\n{first}\n{second}\n\ntest checkpoint\n"
    )
    assert Proof.parse(made.encode()) == made
    empty = Proof(index=0, hashes=(), checkpoint=b"checkpoint\n")
    assert empty.encode() == b"c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n"
    assert Proof.parse(empty.encode()) == empty


@pytest.mark.parametrize(
    "data",
    [
        b"wrong-header\nindex 0\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\nextra !!notbase64!!\nindex 0\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\nextra YWJj\nindex 0\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\n\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\nindex notanumber\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\nindex -5\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\nindex 0\n!!notbase64!!\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\nindex 0\n" + base64.b64encode(bytes(64)) + b"\n\ncheckpoint\n",
        b"c2sp.org/tlog-proof@v1\nindex 0\n" + b"a" * 65 * 1024 + b"\n",
        b"c2sp.org/tlog-proof@v1\nindex 0\n" + (base64.b64encode(bytes(32)) + b"\n") * 64 + b"\n",
    ],
    ids=range(10),
)
def test_a_malformed_proof_is_refused(data: bytes) -> None:
    with pytest.raises(NoteRefused):
        Proof.parse(data)


# C2SP tlog-policy.md; transparency-dev/formats policy/tlog_policy_test.go

WITNESS_KEYS = [
    "Wit1+55ee4561+AVhZSmQj9+SoL+p/nN0Hh76xXmF7QcHfytUrI1XfSClk",
    "Wit2+85ecc407+AWVbwFJte9wMQIPSnEnj4KibeO6vSIOEDUTDp3o63c2x",
    "Wit3+d3ed3be7+ASb6Uz1+fxAcXkMvDd7nGa3FjDce7LxIKmbbTCT0MpVn",
]
"""Published as plain Ed25519 keys; `rewrapped` makes the same keys those of witnesses."""


def rewrapped(vkey: str) -> str:
    return str(VerifierKey(name=key(vkey).name, kind=WITNESS_KIND, public=key(vkey).public))


W = [rewrapped(each) for each in WITNESS_KEYS]


def test_groups_of_groups_are_counted() -> None:
    text = f"""witness w1 {W[0]}
witness w2 {W[1]}
witness w3 {W[2]}
group inner any w2 w3
group outer all w1 inner
quorum outer
"""
    found = Policy.parse(text)
    for by, satisfied in (
        ({"w1", "w2", "w3"}, 1),
        ({"w1", "w3"}, 1),
        ({"w1"}, 0),
        (set[str](), 0),
        ({"w2"}, 0),
    ):
        assert found.satisfied(by) == bool(satisfied)


def test_white_space_comments_and_odd_names() -> None:
    text = f"\n# comment\n\t # another comment\n\twitness \t w1  {W[0]}   https://w1.example.com/  \n\n  quorum\tw1"
    found = Policy.parse(text)
    assert found.witnesses["w1"].url == "https://w1.example.com/"
    assert Policy.parse("quorum none\n").satisfied([])
    odd = Policy.parse(f"witness all {W[0]}\nwitness any {W[1]}\ngroup group 2 all any\nquorum group\n")
    assert odd.satisfied({"all", "any"})


@pytest.mark.parametrize(
    "policy",
    [
        "quorum none\n\x01",
        "quorum none\r\n",
        "quibble w1\nquorum none\n",
        f"witness w1 {W[0]} https://w1.example.com/ # comment\nquorum w1\n",
        "log\nquorum none\n",
        "log garbage\nquorum none\n",
        f"log {PETER}\nlog {PETER} https://log.example.com/\nquorum none\n",
        "witness w1\nquorum none\n",
        f"witness w1 {WITNESS_KEYS[0]}\nquorum w1\n",
        f"witness none {W[0]}\nquorum none\n",
        f"witness w1 {W[0]}\nwitness w1 {W[1]}\nquorum w1\n",
        f"witness w1 {W[0]}\ngroup w1 any w1\nquorum w1\n",
        f"witness w1 {W[0]}\ngroup g1 1\nquorum w1\n",
        f"witness w1 {W[0]}\ngroup none any w1\nquorum none\n",
        f"witness w1 {W[0]}\ngroup g1 0 w1\nquorum g1\n",
        f"witness w1 {W[0]}\ngroup g1 -1 w1\nquorum g1\n",
        f"witness w1 {W[0]}\ngroup g1 2 w1\nquorum g1\n",
        f"witness w1 {W[0]}\ngroup g1 any w2\nquorum g1\n",
        f"group g1 any w1\nwitness w1 {W[0]}\nquorum g1\n",
        f"witness w1 {W[0]}\ngroup g1 any none w1\nquorum g1\n",
        f"witness w1 {W[0]}\ngroup g1 all w1 w1\nquorum g1\n",
        f"witness w1 {W[0]}\nwitness w2 {W[1]}\ngroup g1 any w1 w2\ngroup g2 any w1\nquorum g1\n",
        f"witness w1 {W[0]}\n",
        f"witness w1 {W[0]}\nquorum w1\nquorum w1\n",
        "quorum unknown\n",
        f"quorum w1\nwitness w1 {W[0]}\n",
        "quorum\n",
        f"witness w1 {W[0]}\nwitness w2 {W[0]}\nquorum w1\n",
    ],
    ids=range(28),
)
def test_a_malformed_policy_is_refused(policy: str) -> None:
    with pytest.raises(PolicyRefused):
        Policy.parse(policy)


# C2SP tlog-tiles.md


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(level=0, number=0), "tile/0/000"),
        (Tile(level=0, number=1234067), "tile/0/x001/x234/067"),
        (Tile(level=7, number=123456789, width=41), "tile/7/x123/x456/789.p/41"),
        (Tile(level=ENTRIES, number=1, width=1), "tile/entries/001.p/1"),
        (Tile(level=ENTRIES, number=1234067), "tile/entries/x001/x234/067"),
        (Tile(level=3, number=1000, width=255), "tile/3/x001/000.p/255"),
    ],
)
def test_a_tile_has_one_path(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert Tile.parse(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/64/000", "tile/8/000", "tile/00/000", "tile/-1/000", "tile/0/0", "tile/0/1000", "tile/0/x000/001",
        "tile/0/001/002", "tile/0/x001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/",
        "tile/0/000/", "tile/data/000", "tile/0/x001/x234/067.p/1/", "/tile/0/000", "tile/0/٠٠٠", "checkpoint", "",
    ],
)  # fmt: skip
def test_what_is_no_path_of_a_tile(path: str) -> None:
    with pytest.raises(TileRefused):
        Tile.parse(path)


def test_the_tiles_of_a_tree_of_seventy_thousand() -> None:
    level_0, level_1, level_2 = (list(of_size(70_000, level=level)) for level in range(3))
    assert [each.width for each in level_0] == [256] * 273 + [112]
    assert [each.width for each in level_1] == [256, 17]
    assert [each.width for each in level_2] == [1]
    assert list(of_size(70_000, level=3)) == []
    assert [each.width for each in of_size(256, level=1)] == [1]
