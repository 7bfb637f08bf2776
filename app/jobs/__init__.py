r"""One sequence of unlearning jobs per model: who may work, on which batch, with which engine next.

    plan -> unlearn -> verify -> certify -> publish -> conclude -> done
               ^          |
               +----------+   the verdict does not suffice, and a stronger engine is left: next attempt

Terms: a *lease* is the right to work on a model, numbered by its *epoch* and timed by the database;
an *attempt* is one engine tried on the batch; a *target* is one request's claim on one model. The
*anchor* is the last version that came from training alone: every job starts from it, and applies the
sealed *deltas* of the approximate jobs since anew. A *compaction* is a job that takes nothing new: it
makes exact what those had erased approximately, so that there is a new anchor and no delta.

    scheduling   which job begins, and when       leases     who may work on a model
    service      how a job that has begun goes on failures   what becomes of it when something fails
    lifecycle, compaction, escalation             the rules, pure

Why a lease and an epoch: a worker can be paused for longer than any timeout and wake up believing
that it still works alone. Every write of a job therefore names the epoch it was started under, and
Postgres refuses it when another has been given out since. Why one job per model: each result is the
next job's parent, so two at once could only overwrite each other.
"""
