"""The log's proofs on the wire; checkpoints, tiles and proof files are texts and bytes of their own."""

from pydantic import BaseModel


class PathOut(BaseModel):
    """A proof (RFC 6962): hashes in lowercase hex, from the leaf's sibling up."""

    hashes: list[str]
