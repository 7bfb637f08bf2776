"""The result of a run as a table of text.

    table(result) -> str    per request: the oracles, then a row for the model on which nothing was
                            done, one for retraining, one per engine; then the sequences

It computes nothing; what is null is a dash.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS: Mapping[str, str] = {
    "forget_loss_gap": "loss gap",
    "kl_to_oracle_forget": "KL forg.",
    "kl_to_oracle_retain": "KL ret.",
    "erased_extraction": "erased",
    "others_extraction": "others",
    "membership_auc": "AUC",
    "membership_low": "p low",
    "truth_ratio": "truth r.",
    "forget_quality": "FQ p",
    "utility_change": "utility",
    "neighbour_rise": "neighb.",
    "relearn_auc": "relearn",
    "int8_extraction": "INT8",
    "int4_extraction": "INT4",
    "work_ratio": "work",
    "seconds_ratio": "time",
}
LEGEND = """loss gap, KL: nats per token from the oracles' mean, or to them, on the erased and on what must
not change. erased, others, INT8, INT4: share recited, of the erased and (as a share of before) of the rest.
AUC, relearn: .5 is chance, now and after 20 steps on the rest. p low: below .05 is over-forgotten.
truth r.: 1 is no likelier than wrong answers. FQ p: not told from the oracle, and worth its power only.
utility: change of tokens right. neighb.: rise of loss, nats per token. work, time: shares of retraining."""


def table(result: Mapping[str, Any]) -> str:
    """Return the whole result as text."""
    lines: list[str] = []
    for request in result["requests"].values():
        lines += [*_request(request), ""]
    if result["sequential"]:
        lines += [*_sequence(result["sequential"]), ""]
    return "\n".join([*lines, LEGEND])


def _request(request: Mapping[str, Any]) -> Iterator[str]:
    oracle = request["oracle"]
    low, high = oracle["spread"]
    yield (
        f"{request['subjects']} in a request. Oracles: loss {oracle['forget_loss']} ({low} to {high}), "
        f"KL between them {oracle['kl_floor']}"
    )
    compared = request["before"].get("forget_quality")
    if compared:
        yield (
            f"FQ: {compared['n']} rows; it tells the model on which nothing was done with power "
            f"{compared['power']:.2f}; distances below {compared['smallest']:.3f} are never told"
        )
    yield _heading()
    rows = {"(nothing done)": request["before"], "(retrained)": request["retrain"], **request["engines"]}
    for name, row in rows.items():
        if row.get("refused"):
            yield f"{name:20}refused: {row['refused']['reason']}"
        else:
            yield _cells(name, row)


def _sequence(sequential: Mapping[str, Any]) -> Iterator[str]:
    yield f"{sequential['jobs']} jobs, one after the other. Oracle: {json.dumps(sequential['oracle'])}"
    yield _heading()
    for name in ("anchored", "chained_npo"):
        row = sequential[name]
        yield _cells(name, row | {"work_ratio": row["work_ratio_per_job"]})
        yield f"{'':20}refused {row['refused']}, the first erased recited {row['first_erased_extraction']}"


def _heading() -> str:
    return " " * 20 + "".join(f"{short:>9}" for short in COLUMNS.values())


def _cells(name: str, row: Mapping[str, Any]) -> str:
    return f"{name:20}" + "".join(f"{_cell(row.get(column)):>9}" for column in COLUMNS)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value["p"]
    return "-" if value is None else f"{value:.3f}"
