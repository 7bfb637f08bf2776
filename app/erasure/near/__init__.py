"""Near duplicates of what a request concerns: found by sketches, confirmed by a worker, decided by a person.

Twins left behind keep a model's memory of what was erased, and many a twin names nobody, so no identifier
finds it. Whether it says enough of the person to be erased too, no index can tell: each is a *proposal*.

    look       with the certain matches, in the same transaction: does any record share a band with one?
    search     owed to exactly one set (its hash) if so; a worker reads both texts and computes the index
    proposal   a record, the one it is nearest to, the exact Jaccard index; never what either says
    decide     adopted: it is in the set, whose hash changes, and two people approve; declined: never again

While a search is open or a proposal undecided the request stays in triage. One whose texts cannot be read
is tried again, ever later; a person may go on without it (`waived`), by name and in the audit chain.
"""
