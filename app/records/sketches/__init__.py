"""What records are like: sketched after registration, so that near duplicates can be found among them.

    sketch    of one record, under a keyed name (`app.records.sketching`, which is pure)
    pass      over one dataset, in batches; whoever claims it second has nothing to do
    sketched  a dataset whose every record has one of the name in use

Why a pass of its own and not part of the registration: that one is all or nothing in one transaction, and
this one costs as much again.
"""
