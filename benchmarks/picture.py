"""The result of a run as one SVG: how near each engine comes to the oracle, and what it costs.

    drawn(result) -> Scene      per request a plot of KL on what must not change (across) against KL on the
                                erased (up), both logarithmic: the nearer to the corner, the better; the
                                band is what a seed alone makes. Beside it bars: work, and relearning
    svg(result) -> str

Shapes come from the certificate's picture. It computes nothing but places.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.certificates import picture
from app.certificates.picture import AFTER, BEFORE, FAINT, INK, MARGIN, RULE, Diamond, Disc, Rect, Scene, Text

PLOT = 640
"""Width of the plot; it is two thirds as high."""
LEFT = MARGIN + 56
BAND = "#dfe9e4"
LABEL = 12
ROOM = 120
"""How far up or down a name may go from its dot."""
LEAST = 1e-4
"""Nats; what is less is drawn there."""

Point = tuple[str, float, float]


def svg(result: Mapping[str, Any]) -> str:
    """Return the picture as text; what it shows is also said in words."""
    title = f"Unlearning engines beside retrained oracles, suite {result['suite']}"
    said = [
        f"{size} in a request: "
        + "; ".join(
            f"{name} KL {forget} on the erased, {retain} on the rest" for name, retain, forget in points(each)
        )
        for size, each in result["requests"].items()
    ]
    return picture.svg(drawn(result), title=title, description=". ".join(said))


def drawn(result: Mapping[str, Any]) -> Scene:
    """Return the sheet."""
    scene = Scene()
    scene.add(
        Text(MARGIN, scene.down(18), f"Engines beside retrained oracles: {result['suite']}", 22, bold=True)
    )
    for size, request in result["requests"].items():
        scene.add(
            Text(MARGIN, scene.down(38), f"{size} in a request; seeds: {result['seeds']}", 16, bold=True)
        )
        _plot(scene, request)
        _bars(scene, "Work as a share of retraining", _values(request, "work_ratio"), limit=None)
        oracle = [each for each in request["oracle"].get("relearn_auc", []) if each is not None]
        _bars(
            scene,
            "Membership AUC after 20 relearning steps (.5 is chance; the line is the oracles)",
            _values(request, "relearn_auc"),
            limit=sum(oracle) / len(oracle) if oracle else None,
        )
    scene.down(MARGIN)
    return scene


def points(request: Mapping[str, Any]) -> list[Point]:
    """Return (name, KL on what must not change, KL on the erased) of all that were measured."""
    rows = {"nothing done": request["before"], "retrained": request["retrain"], **request["engines"]}
    return [
        (name, row["kl_to_oracle_retain"], row["kl_to_oracle_forget"])
        for name, row in rows.items()
        if row["kl_to_oracle_retain"] is not None and row["kl_to_oracle_forget"] is not None
    ]


def _plot(scene: Scene, request: Mapping[str, Any]) -> None:
    found = points(request)
    if not found:
        scene.add(Text(MARGIN, scene.down(24), "No distance was measured.", LABEL, FAINT))
        return
    across = _Axis([x for _, x, _ in found], LEFT, LEFT + PLOT)
    floor = request["oracle"]["kl_floor"]
    top = scene.height + 28
    bottom = top + PLOT * 2 / 3
    up = _Axis([y for _, _, y in found] + ([floor] if floor else []), bottom, top)
    scene.add(Rect(LEFT, top, PLOT, bottom - top, "#f6f8fa"))
    if floor:
        scene.add(Rect(LEFT, up.at(floor), PLOT, bottom - up.at(floor), BAND))
        scene.add(
            Text(LEFT + PLOT - 6, bottom - 8, f"oracle from oracle: {floor:g}", LABEL, AFTER, anchor="end")
        )
    for tick in across.ticks():
        scene.add(Rect(across.at(tick), top, 1, bottom - top, RULE))
        scene.add(Text(across.at(tick), bottom + 16, f"{tick:g}", LABEL, FAINT, anchor="middle"))
    for tick in up.ticks():
        scene.add(Rect(LEFT, up.at(tick), PLOT, 1, RULE))
        scene.add(Text(LEFT - 8, up.at(tick) + 4, f"{tick:g}", LABEL, FAINT, anchor="end"))
    scene.add(Text(MARGIN, top - 8, "KL to the oracles on the erased, nats per token", LABEL, FAINT))
    scene.add(
        Text(
            LEFT + PLOT, bottom + 34, "KL to the oracles on what must not change", LABEL, FAINT, anchor="end"
        )
    )
    placed = [(name, across.at(x), up.at(y)) for name, x, y in found]
    for name, x, y in placed:
        scene.add(
            Diamond(x, y, 7, BEFORE if name == "nothing done" else AFTER)
            if name in ("nothing done", "retrained")
            else Disc(x, y, 4.5, INK)
        )
    for name, x, y, anchor in _labels(placed, LEFT, LEFT + PLOT):
        scene.add(Text(x, y, name, 11, INK, anchor=anchor))
    scene.height = bottom + 40


def _labels(
    placed: Sequence[Point], left: float, right: float
) -> Iterator[tuple[str, float, float, picture.Anchor]]:
    """Yield each name beside its dot, at the nearest height where it lies on no dot and no other name."""
    taken = [(x - 5, x + 5, y + 4) for _, x, y in placed]
    for name, x, y in placed:
        wide = 6.0 * len(name)
        begin, base, ends = next(
            (begin, y + 4 + step, ends)
            for step in sorted(range(-ROOM, ROOM + 1, 3), key=abs)
            for begin, ends in ((x + 10, False), (x - 10 - wide, True))
            if abs(step) == ROOM
            or (
                left < begin
                and begin + wide < right
                and not any(
                    near < begin + wide and begin < far and abs(base - y - 4 - step) < LABEL
                    for near, far, base in taken
                )
            )
        )
        taken.append((begin, begin + wide, base))
        yield name, round(begin + wide if ends else begin, 2), round(base, 2), "end" if ends else "start"


def _values(request: Mapping[str, Any], name: str) -> list[tuple[str, float | None]]:
    return [(engine, row.get(name)) for engine, row in request["engines"].items()]


def _bars(
    scene: Scene, heading: str, values: Sequence[tuple[str, float | None]], *, limit: float | None
) -> None:
    scene.add(Text(MARGIN, scene.down(34), heading, 14, bold=True))
    left, room = MARGIN + 170, PLOT - 190
    most = max([1.0, *(value for _, value in values if value is not None)])
    top = scene.height + 8
    for engine, value in values:
        y = scene.down(20)
        scene.add(Text(MARGIN, y, engine, LABEL), Rect(left, y - 11, room, 14, "#f1f3f5"))
        if value is None:
            scene.add(Text(left + 6, y, "not measured", LABEL, FAINT))
            continue
        scene.add(Rect(left, y - 11, round(room * value / most, 2), 14, AFTER if value <= 1 else BEFORE))
        scene.add(Text(left + room + 8, y, f"{value:.3f}", LABEL))
    if limit is not None and values:
        scene.add(Rect(round(left + room * limit / most, 2), top, 2, scene.height - top + 4, INK))


class _Axis:
    """A logarithmic axis from one end to the other."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        """Span all values, with a tenth of room on each side."""
        logs = [math.log10(max(value, LEAST)) for value in values]
        room = max(0.1 * (max(logs) - min(logs)), 0.1)
        self.low, self.high = min(logs) - room, max(logs) + room
        self.begin, self.end = begin, end

    def at(self, value: float) -> float:
        """Return where a value lies."""
        share = (math.log10(max(value, LEAST)) - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 2)

    def ticks(self) -> Iterator[float]:
        """Yield the round values on the axis."""
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for digit in (1, 2, 5):
                if (
                    self.low
                    <= math.log10(digit * 10**power if power >= 0 else digit / 10**-power)
                    <= self.high
                ):
                    yield digit * 10.0**power
