"""One-time codes: how a person proves that the address they ask for is theirs.

    challenge  a code that is owed to the person of a request; the code itself is kept as an HMAC alone
    courier    the port by which it reaches them, and the one that sends e-mail
    knock      a call that nobody's key vouches for, by a keyed hash of its address

    asked ── drawn ── sent ── proven
      └────────┴───────┴───── superseded, failed, stopped

Eight digits are 10^8, and a code is worth five guesses and 15 minutes; a request has three codes an hour.
That is one in seven million, an hour, for who guesses as fast as they may. Six guesses at once count six
(CVE-2023-48224): each is one UPDATE that five can win.

Why only some are asked this way: a code shows that somebody reads one mailbox. So it is sent only where
the request names that mailbox and nothing else: who names another's number beside an address of their
own has shown nothing of the number. Any other doubt is an officer's to settle, and where no courier is
configured, each.
"""
