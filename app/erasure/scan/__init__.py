"""The text scan: what a person is known by, sought in what all records say, and decided on by a person.

People appear in other people's records, and no index of whom a record is about finds them there. Whether
such a record says enough of the person to be erased for them, no machine can tell: each is a *proposal*,
beside the near duplicates.

    begin      with the certain matches, in the same transaction, where identifiers came in plain
    pass       a worker opens the identifiers of all who wait, and reads every dataset once for all of them
    proposal   a record, by which types of identifier it was found and how often; never a value, never text
    decide     adopted: it is in the set, whose hash changes, and two people approve; declined: never again

What came as a hash, or is kept as a keyed hash alone, cannot be sought in a text: the index is `hashed`,
which is not "nothing found". While a scan is owed or a proposal undecided the request stays in triage. A
file that cannot be read is tried again, ever later; a person may go on without it (`waived`), by name and
in the audit chain.
"""
