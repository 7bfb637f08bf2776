"""What measurements mean: numbers and a policy in, a decision and its reasons out.

    measurements ──┐
    evidence ──────┼──> decide ──> Decision (verdict, level, bounds) ──> decide_batch ──> publish
    method facts ──┤                                                                      retry
    policy ────────┘                                                                      block

Verdict, per request: **V** the test could see the person before, and does not now, within a bound;
**N** nothing was measurable before, and the test would have seen it; **I** the tests could not
tell; **F** something was found. Level: the verdict under the ceiling of the method's class:

    exact         exact
    bounded       certified, failed
    approximate   verified (V), executed (N), inconclusive (I), failed (F)

Words. *Baseline*: the version live when the request was first planned. *Candidate*: what the
engine made. *Form*: served dtype and quantisation, `bfloat16/none`. *Cohort*: people drawn before
training and never trained on; *m* of them judge. *Control*: the same test on the baseline, which
must fire, else silence proves nothing. *Look*: the n-th use of the audit material on one request;
each spends a part of alpha. *Sentinels*: planted nobodies erased with each batch. *Assay
controls*: people trained and kept, whom a living assay must still see.

Around it: `recheck` computes every number and letter again on another path, and a difference blocks the
batch; `qualification` says which configuration of an approximate engine may certify; `fleet` looks at
many verdicts together; `audit` looks deeper into some certificates after they were issued (`audits`).

Pure but for `service`, `audits`, `repository` and the endpoints: the same numbers and policy give the same
decision, byte for byte, on any machine, so whoever doubts a verdict can recompute it.
"""
