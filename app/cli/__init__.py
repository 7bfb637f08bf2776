"""`lethe`: what a person types. A client of the API, and the few commands that work on this computer.

    operate.py       up, demo, migrate, keys, account        this computer
    training.py      dataset, model                          the API
    erasing.py       request, job                            the API
    bulk.py          request import, export, bulk           the API; many at once
    suppression.py   suppression                            the API; the filter itself asks nobody else
    certificate.py   certificate                             the API; `check` needs nobody
    auditing.py      audit                                  the API
    client.py        the calls, what is printed, how one waits

Exit codes: 0 done, 1 refused or failed (the reason is printed), 2 typed wrongly, 3 nobody answers.
"""
