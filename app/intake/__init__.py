"""Foreign protocols: thin adapters over `app.erasure.service`; whatever they say, one request results.

    OpenDSR 2.0   a *controller* asks us, its *processor*, to erase a person; every answer and every
                  callback is signed with the key of a certificate that an authority issued

    ours                                   OpenDSR
    received ... awaiting_approval         pending
    scheduled ... publishing               in_progress
    completed, no_match                    completed
    withdrawn, rejected                    cancelled

An adapter translates words and keeps a controller's name for a request; deadlines, approvals and
everything that is done is decided where our own callers' requests are decided.
"""
