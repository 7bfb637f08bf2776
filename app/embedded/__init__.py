"""`lethe up`: the whole service on one computer, as real processes under one supervisor.

    model server | postgres -> redis -> migrations -> API, workers, beat       stopped in reverse

    stack.py       start all of it or none, watch, start again what dies, stop
    parts.py       what a part is; our own: model server, workers, beat, API
    servers.py     Postgres and Redis out of wheels
    addresses.py   who is where, from the settings
    accounts.py    the people made at the first start, and their keys

Why real processes: what runs on a laptop is what runs in production, only started by us. Workers and
model server are started by their command lines: nothing of `app` imports them.
"""
