"""Model lines and their versions.

A *model* is a line: a name, a dataset, a recipe. A *version* is one set of weights of it, named by
the SHA-256 of its manifest; its tensor root names the numbers, however the files are cut.

    preparing ──> candidate ──> live ──> quarantined ──> condemned ──> destroyed
        └─> failed     └──────────────────────────────────^

An *anchor* is a version that came from training alone; every job starts from one. *References* are
models of the same recipe on disjoint shards of the subjects, so that all but one never saw a given
person; the one that did is condemned when that person is erased, and made again without them.

    breaker    closed ── two jobs in a row have failed ──> open        nothing is begun
               closed ── the database was restored ──────> frozen      nor served, nor destroyed

Why a person closes either: what is wrong with a line is not known to who works on it.
"""
