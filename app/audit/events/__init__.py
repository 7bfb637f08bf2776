"""The vocabulary of the audit chain: one frozen dataclass per kind of event, one module per subject.

    requests, identity, clock, holds, forgetting    what becomes of a request, and of what is known of whom
    jobs, verification, certificates                the work on a model, its judgement, its proof
    datasets, suppression, registry                 records, what no training may bring back, models
    access, intake, webhooks, chain                 who may do what, who brings and is told, the chain itself

Fields are ids, codes, counts and instants, never text that a person wrote. A field that holds a
UUID is named for what it identifies (`request`, `model`, `version`, `job`, `dataset`, `principal`,
`key`, `certificate`), and the service writes it as that kind's public id. The first field is what
the event is about. Knows neither the chain nor the database.

Why all of them are here by name, whichever module defines them: who records an event says `events.X`,
and who reads the chain finds every kind in one place. A new event is a class in the module of its
subject; nothing is to be added here.
"""

from app.audit.events.access import *
from app.audit.events.base import *
from app.audit.events.certificates import *
from app.audit.events.chain import *
from app.audit.events.clock import *
from app.audit.events.datasets import *
from app.audit.events.forgetting import *
from app.audit.events.holds import *
from app.audit.events.identity import *
from app.audit.events.intake import *
from app.audit.events.jobs import *
from app.audit.events.registry import *
from app.audit.events.requests import *
from app.audit.events.suppression import *
from app.audit.events.verification import *
from app.audit.events.webhooks import *
