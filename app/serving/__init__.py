"""What users get: which replica serves which version, how it is changed, and when that counts.

    begin ──> publish (every replica: load, swap, drain, attest) ──> promote ──> announce
    one transaction       no transaction                             one transaction   best effort

A *replica* is one model server, seen through a *backend*; a *publication* is the order to serve one
version under one publish epoch; a *confirmation* is a replica's signed and checked word that it holds
exactly these weights and has freed the old ones. A version is live when every replica of its model
has confirmed and the compare-and-set on the model's row, fenced by the lease, has gone through.

Why the epochs: a publish epoch is used once, so a replica can tell a publisher that has lost from one
that has not; the erasure epoch counts erasures that were published, so that weights from before one
are refused wherever they come from.
"""
