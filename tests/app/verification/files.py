"""Files of measurements as the library writes them, drawn at random or typed in; and a judge's two opinions."""

import json
import random
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from app.verification import recheck
from app.verification.measurements import MethodFacts, batch_evidence, request_measurements
from app.verification.policy import Policy
from app.verification.verdict import Decision, decide
from tests.app.verification import builders

ATTACKS = ("ref_loss", "paraphrase", "worst_row", "min_k", "extraction_strength", "name", "fake_name")
WHO = "request/0"


def six(value: float) -> str:
    return f"{value:.6f}"


def reading(score: str, cohort: Sequence[str]) -> dict[str, Any]:
    return {"score": {"ref_loss": score}, "cohort": {"ref_loss": list(cohort)}}


def examinee(name: str, kind: str, rows: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "kind": kind,
        "rows": rows,
        "judges": ["1", "2"],
        "score": {},
        "cohort": {},
        "blind": {"score": "0.000000", "cohort": []},
        "extraction": None,
        "relearn": None,
    } | more


def file(form: str, examinees: Sequence[Mapping[str, Any]]) -> bytes:
    body = {
        "version": "lethe/measurements/1",
        "form": form,
        "suite": "lethe-verify/1",
        "examinees": list(examinees),
        "utility": {"items": {f"item-{n}": {"loss": "0.100000", "recalled": True} for n in range(4)}},
        "not_run": {},
    }
    return json.dumps(body).encode()


def loaded(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body)
    return found


def drawn(seed: int) -> tuple[list[bytes], list[bytes], tuple[str, ...], int]:
    """Return before, after, the declared forms and the look of one random examinee and its batch.

    Scores lie on a grid that is sometimes so coarse that ties are everywhere; traces are of any size.
    """
    dice = random.Random(seed)
    m = dice.choice((4, 19, 24, 24, 40))
    grid = dice.choice((1, 20, 1000, 10**6))
    attacks = ["ref_loss", *(a for a in ATTACKS[1:] if dice.random() < 0.25)]
    trained, trace = dice.choice((0.0, 3.0, 9.0)), dice.choice((0.0, 0.0, 0.0, 0.1, 0.3, 3.0, -3.0))
    forms = tuple(f"form-{n}" for n in range(dice.choice((1, 1, 2))))

    def scored(shift: float, count: int) -> dict[str, Any]:
        def one(by: float) -> str:
            return six(round((dice.gauss(0, 0.2) + by) * grid) / grid)

        return {
            "score": {attack: one(shift) for attack in attacks},
            "cohort": {attack: [one(0.0) for _ in range(count)] for attack in attacks},
        }

    def others(kind: str, count: int, by: float) -> list[dict[str, Any]]:
        return [examinee(f"{kind}/{n}", kind, **scored(by, m)) for n in range(count)]

    planted, kept = dice.choice((0, 2, 3)), dice.choice((1, 2, 2, 3))
    collapsed = dice.random() < 0.1
    samples = dice.choice((1, 20, 300, 1000))
    upper = 1 - 0.05 ** (1 / samples)
    before, after = [], []
    for form in forms:
        hits = int(dice.random() < 0.05)
        extraction = {
            "fields": dice.choice((0, 2)),
            "reported": 1,
            "hits": hits,
            "reported_hits": 0,
            "prompts": 8,
            "samples": samples,
            "upper": str(Decimal(str(upper)).quantize(Decimal("0.000001"), rounding="ROUND_CEILING")),
        }
        probes = [
            {"steps": n, "score": six(dice.gauss(0, 1)), "cohort": [six(dice.gauss(0, 1)) for _ in range(19)]}
            for n in (20, 50)
        ]
        more: dict[str, Any] = {
            "extraction": None if dice.random() < 0.1 else extraction,
            "relearn": dice.choice((None, None, None, None, None, probes, probes[0])),
            "blind": {"score": six(dice.gauss(0, 1.2)), "cohort": [six(dice.gauss(0, 1)) for _ in range(m)]},
        }
        people = examinee(WHO, "request", **scored(trained, m))
        before.append(file(form, [people, *others("sentinel", planted, 3.0), *others("control", kept, 3.0)]))
        people = examinee(WHO, "request", **scored(trace, m), **more)
        shown = 0.0 if collapsed else 3.0
        rest = [*others("sentinel", planted, 0.0), *others("control", kept, shown)]
        if form != "form-1" or dice.random() < 0.9:  # now and then a form that was declared is not measured
            after.append(file(form, [people, *rest]))
    return before, after, forms, dice.choice((1, 1, 1, 1, 1, 2, 3))


def policy(seed: int) -> Policy:
    """Return a policy under which every row of the table can be reached with few people."""
    dice = random.Random(f"policy {seed}")
    return builders.unchecked(
        m_min=dice.choice((1, 9, 9, 40)),
        alpha=Decimal("0.05"),
        alpha_control=Decimal(dice.choice(("0.05", "0.2"))),
        alpha_over=Decimal(dice.choice(("0.01", "0.05"))),
        alpha_spend=tuple(
            map(Decimal, dice.choice((("0.04", "0.01"), ("0.3", "0.2"), ("0.4", "0.4"), ("0.4", "0.4"))))
        ),
        delta=Decimal(dice.choice(("0.2", "0.9", "0.123456789"))),
        assay_subjects=dice.choice((1, 2)),
        mde_floor_nats=Decimal(dice.choice(("0.05", "1"))),
        attacks=ATTACKS,
    )


def first(
    before: Sequence[bytes], after: Sequence[bytes], forms: Sequence[str], look: int, rules: Policy
) -> Decision:
    """Return the judge's own decision on what was stored."""
    old, new = [json.loads(body) for body in before], [json.loads(body) for body in after]
    return decide(
        request_measurements(WHO, old, new, look=look, cohort_kind="lottery"),
        batch_evidence(old, new, forms=forms),
        MethodFacts(engine="engine", guarantee="approximate", qualified=True, attempts=1),
        rules,
    )


def second(
    before: Sequence[bytes], after: Sequence[bytes], forms: Sequence[str], look: int, rules: Policy
) -> recheck.Opinion:
    """Return the second opinion on the same bytes."""
    old, new, plain = recheck.read(before), recheck.read(after), rules.model_dump(mode="json")
    return recheck.opinion(
        WHO,
        baseline=old,
        after=new,
        rooms=recheck.rooms(old, new, forms, plain),
        forms=forms,
        look=look,
        cohort_kind="lottery",
        policy=plain,
    )


def differing(seed: int) -> tuple[str, ...]:
    """Return where the two differ on one random examinee."""
    return compared(seed)[1]


def compared(seed: int) -> tuple[str, tuple[str, ...]]:
    """Return the second opinion's letter on one random examinee, and where the two differ."""
    before, after, forms, look = drawn(seed)
    rules = policy(seed)
    decision = first(before, after, forms, look, rules).to_json()
    own = second(before, after, forms, look, rules)
    return own.verdict, recheck.disagreements(decision, own)
