"""What keeps a request, a record or a model from being erased from: placed, lifted, expired, listed.

    hold      on exactly one of the three, with a reason and a date on which it ends by itself
    held      a request that stands under one, by itself, a record of it, or a model it concerns

A hold keeps what it concerns out of batches and does not stop the clock. Requests that nothing has
begun for go back to triage, where they wait and their approvals are void. Where a job has begun it is
too late for its model: that part goes on, a person is asked for, and what comes back from a job that
failed stays out.

Why lifting needs a second person, and nobody's silence keeps a hold up: it is the one way to keep data
that somebody may have erased, so neither one person nor forgetfulness may keep it for ever.
"""
