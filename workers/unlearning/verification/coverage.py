"""Is a label still among those that a classifier would not rule out? Split-conformal sets (arXiv:2501.19403).

    coverage(rows, calibration)  -> {"rows", "outside", "misclassified_inside", "alpha"}

A label is in the set of a row if its -log p is at most the k-th smallest of n never-trained rows, k =
ceil((n + 1)(1 - alpha)); then the set holds the label of a never-trained row with probability >= 1 -
alpha, at every n, if rows are exchangeable. A row that is misclassified and still inside is the sign of
fake unlearning: its label was pushed out of the first place, and no further. With k > n nothing is ruled
out. Secondary numbers, beside the scores; nothing is decided on them. Pure.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

from workers.unlearning.verification.scoring import Row

ALPHA = Fraction(1, 20)


def coverage(
    rows: Sequence[Row], calibration: Sequence[Row], *, alpha: Fraction = ALPHA
) -> dict[str, int | str]:
    """Return how many of the rows have their label outside of their set, or inside and not in first place."""
    limit = threshold([row.answer for row in calibration], alpha)
    inside = [row for row in rows if row.answer <= limit]
    return {
        "rows": len(rows),
        "outside": len(rows) - len(inside),
        "misclassified_inside": sum(not row.recalled for row in inside),
        "alpha": str(float(alpha)),
    }


def threshold(losses: Sequence[float], alpha: Fraction) -> float:
    """Return the k-th smallest of n losses, k = ceil((n + 1)(1 - alpha)); infinity if k > n."""
    place = math.ceil((len(losses) + 1) * (1 - alpha))
    return sorted(losses)[place - 1] if place <= len(losses) else math.inf
