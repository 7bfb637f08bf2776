"""What no training may bring back: records whose erasure was approved, by a keyed hash of what they say.

    HMAC-SHA-256(K_s, "lethe/suppression/v1" || 00 || SHA-256(canonical bytes))

    bar     made while the record can still be read, lifted if nobody asks for its erasure any more
    number  of a bar, in the order of commits: who has the list up to one asks for what came after it
    screen  pipelines are told by position which of their records are barred, or keep a copy of the list

Why it bars records, not people, and by a key: a list of people's identifiers would be what they asked us
to forget. A copy of this one is worth nothing without its key, and the key never leaves by this service.
"""
