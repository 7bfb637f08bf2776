"""The examiner: what does a model still know of somebody, in numbers and never in verdicts.

    measure(spec) -> dict      also written to OUT/measurements.json (`lethe/measurements/1`)
    audit(spec) -> dict        deeper, slower, of fewer: OUT/audit.json (`lethe/audit/1`)

Terms: an *examinee* is a subject to be measured (a request's, a planted *sentinel*, a *control* who
was trained and is kept); the *cohort* are subjects never trained on, scored exactly alike; a *judge*
is a reference model that never saw the examinee. A score is higher where more is memorised. Nothing
here knows which engine made the model, what a score must be, or what follows from it.
"""

from workers.unlearning.verification.auditing import audit
from workers.unlearning.verification.examination import measure

__all__ = ["audit", "measure"]
