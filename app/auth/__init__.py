"""Who may call, and what they may do.

    principal   a person or a machine
    key         what a principal shows; kept as a keyed hash, shown once, with some scopes
    provider    the customer's own, whose access tokens count as well (OAuth 2.0, OpenID Connect)
    session     a person's browser, logged in at the provider; a cookie, kept as a keyed hash
    scope       one kind of act: `requests:create`, `models:read`
    role        a set of scopes that belong together, for whoever hands out keys

We check keys and tokens, we issue none but the session's own. Whoever comes by a token and by a session
is one principal, (iss, sub). An approval needs a person, and not the one who submitted.
"""
