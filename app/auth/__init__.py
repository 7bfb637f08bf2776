"""Who may call, and what they may do.

    principal   a person or a machine
    key         what a principal shows; kept as a keyed hash, shown once, with some scopes
    provider    the customer's own, whose access tokens count as well (OAuth 2.0, OpenID Connect)
    scope       one kind of act: `requests:create`, `models:read`
    role        a set of scopes that belong together, for whoever hands out keys

We check keys, we issue no tokens. An approval needs a person, and not the one who submitted.
"""
