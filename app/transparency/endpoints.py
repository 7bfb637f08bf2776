"""The public log over HTTP: for everybody, without a key, in files that a CDN may keep for ever.

Paths and bytes are those of C2SP `tlog-tiles`, so that tools which know nothing of us can read them.
"""

from typing import Annotated

from fastapi import Path, Query, Response

from app.errors import Invalid, NotFound
from app.http.dependencies import SessionDep, SettingsDep
from app.http.problems import responses
from app.http.routing import router as new_router
from app.transparency import keys, service
from app.transparency.schemas import PathOut
from app.transparency.tiles import Tile, TileRefused

router = new_router("/log", tag="Public log")

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
FOR_EVER = "public, max-age=31536000, immutable"
FOR_SECONDS = "public, max-age=5"

Index = Annotated[int, Query(ge=0, lt=2**62)]
Size = Annotated[int, Query(ge=1, lt=2**62)]
Leaf = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256(0x00 || entry), in hex.")]


@router.get("/checkpoint", response_class=Response, responses=responses(NotFound))
def read_checkpoint(session: SessionDep) -> Response:
    """Show how large the log is and its root, signed by the log and cosigned by its witnesses."""
    return _file(service.checkpoint(session), TEXT, FOR_SECONDS)


@router.get("/policy", response_class=Response, responses=responses(NotFound))
def read_policy(settings: SettingsDep) -> Response:
    """Show the log's verifier key and its witnesses; compare them with what you got elsewhere."""
    try:
        return _file(keys.policy_text(settings.keys).encode(), TEXT, FOR_SECONDS)
    except keys.NoLog as reason:
        raise NotFound("there is no log here", code="no-log") from reason


@router.get("/tile/{path:path}", response_class=Response, responses=responses(NotFound))
def read_tile(path: str, session: SessionDep) -> Response:
    """Fetch 256 hashes (or entries) of the tree, or the part that is there yet (`.p/WIDTH`)."""
    try:
        place = Tile.parse(f"tile/{path}")
    except TileRefused as reason:
        raise NotFound("this is no path of a tile") from reason
    return _file(service.tile(session, place), BYTES, FOR_EVER)


@router.get("/proof/{leaf}", response_class=Response, responses=responses(NotFound))
def read_proof(leaf: Leaf, session: SessionDep) -> Response:
    """Fetch the proof file (`.tlog-proof`) of what was logged, by its leaf hash."""
    return _file(service.proof(session, bytes.fromhex(leaf)), TEXT, FOR_EVER)


@router.get("/inclusion", responses=responses(NotFound, Invalid))
def read_inclusion(index: Index, size: Size, session: SessionDep, response: Response) -> PathOut:
    """Show that the entry at an index is under the root of a size."""
    response.headers["Cache-Control"] = FOR_EVER
    return PathOut(hashes=[each.hex() for each in service.inclusion(session, index, size)])


@router.get("/consistency", responses=responses(NotFound, Invalid))
def read_consistency(first: Size, second: Size, session: SessionDep, response: Response) -> PathOut:
    """Show that the log of a size only appended to the log of an earlier one."""
    response.headers["Cache-Control"] = FOR_EVER
    return PathOut(hashes=[each.hex() for each in service.consistency(session, first, second)])


def _file(content: bytes, media_type: str, kept: str) -> Response:
    headers = {"Cache-Control": kept, "Access-Control-Allow-Origin": "*"}
    return Response(content, media_type=media_type, headers=headers)
