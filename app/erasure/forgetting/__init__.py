"""How the service itself forgets: what it knows of a person is sealed, and the key is destroyed on a date.

    field       what a caller wrote down of a person: identifiers, a note, evidence, a reason of refusal
    data key    one a request; seals its fields, lies in Postgres, wrapped by an epoch's key
    epoch       a week; its key is a file outside Postgres (`app.storage.epochs`), destroyed in time
    purge       a request's data key destroyed, its fields, keyed hashes and records' rows deleted
    tombstone   what is left of a purged request: dates, outcome, grounds, counts, certificates

    sealed ── concluded, 30 days ──> purged ── at most 6 weeks ──> beyond recovery from any backup

Deleting a row shreds nothing that a backup holds; destroying the week's key does. Data keys that are
still in use are wrapped anew before. What is kept how long stands in one place: `retention`.
"""
