"""The public log: an append-only Merkle tree over digests, so that nothing issued can be unsaid.

    entry ──SHA-256(0x00 ‖ entry)──▶ leaf ──RFC 6962──▶ root

Terms: a *leaf* is the hash of an entry, a *root* commits to all leaves in order, an *inclusion proof*
shows that one leaf is under a root, a *consistency proof* that a later root only appended.
"""
