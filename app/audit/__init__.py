"""What happened, in order: a hash chain in the transaction of what it records.

    hash_0 = 32 zero bytes
    hash_n = SHA-256("lethe/audit/v1" || 00 || u64be(n) || hash_{n-1} || SHA-256(body_n))

A body is the RFC 8785 bytes of ids, codes, counts and times in integer microseconds; nothing
personal. The fixed head row is locked by whoever appends, so the sequence has no gaps and is in
the order of the commits; locking "the latest row" would let the chain fork.
"""
