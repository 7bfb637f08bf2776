"""Requests to be forgotten: what was asked, which records and models it concerns, by when.

    request    one person's wish, as keyed hashes and record ids; who they are lies sealed (`forgetting`)
    challenge  a code sent to the person of a request whose source does not vouch for them (`identity`)
    hold       keeps a request, a record or a model out of batches for a while (`holds`)
    target     one model that learned one of its records; walks scheduled ... completed by itself
    record set what the request names; its hash binds approvals and the start of the work

    received ─ triage ─┬─ awaiting_approval ─┬─ scheduled ─ unlearning ─ verifying ─ publishing ─ completed
                       │    ^  │  rejected   │      │           ^ └────────┘ │          │             ^
                       │    └──┴─ triage     │      └───────────┴────────────┴──────────┘             │
                       └─ no_match           └─ not trained by any model ─────────────────────────────┘

Between `received` and `triage` lies `identity_pending`, where nobody vouches for who asks. A request
stands where its slowest target stands. Until one target has begun, it can be withdrawn.
Nothing here makes a job: an approved request rings a bell per model.
"""
