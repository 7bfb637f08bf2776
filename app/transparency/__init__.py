"""The public log: an append-only Merkle tree over digests, so that nothing issued can be unsaid.

    entry ──SHA-256(0x00 ‖ entry)──▶ leaf ──RFC 6962──▶ root

    append ──outbox──▶ committed ──▶ signed ──▶ published        a killed run is gone on with by the next

Terms: a *leaf* is the hash of an entry, a *root* commits to all leaves in order, an *inclusion proof*
shows that one leaf is under a root, a *consistency proof* that a later root only appended. A *checkpoint*
is a size and its root, signed as a *note*; *witnesses* cosign it, a *policy* says whose word counts. The
bytes are in `LOG.md`.
"""
