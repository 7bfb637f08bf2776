"""Many requests in one file: NDJSON or CSV, each row a request of its own, each once.

    file ── rows ──> staged: keyed hashes of who is named, never what the file said
                       └── 200 at a time, in one transaction: outcomes and requests together ──> done

    pending     staged, and not yet looked at
    created     a request was received for it
    duplicate   a request of the same caller has its reference already, for the same person or records
    invalid     refused; why and where, as code and pointer, never the input

A worker that is killed leaves whole batches; the next one goes on with the first pending row.
"""
