"""A certificate as a picture: where the person stands among people the model never saw, and what may remain.

    facts ──> pictured ──> Scene ──┬──> svg    text
                                   └──> shapes that anybody else can draw (`app.cli.drawing`)
    facts ──> html: the picture, the same numbers as tables for who cannot see it, the limits

What is drawn comes from the statement in the bundle and, for whoever may see it, from the verification
report: only the latter tells ranks. A strip shows the person's rank and no score, since no score of
anybody else is in the report. Everything here is text from a file that somebody else may have written,
so all of it is escaped. Knows no network and no file; a picture proves nothing, `check` does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from html import escape
from typing import Any, Literal

INK, FAINT, RULE, BACK = "#1b1f24", "#57606a", "#c4cad0", "#ffffff"
BEFORE, AFTER, ALARM = "#b3261e", "#0b6e4f", "#f6d5d2"
"""Red and green differ in lightness and in shape too: whoever sees no colours sees a diamond and a disc."""

WIDTH, MARGIN, STRIP = 760, 28, 704
FORMS_MAX = 24
"""Strips that are drawn; tables have them all."""

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One person in one form: how many of m never-seen people score at least as high."""

    label: str
    m: int
    before: int | None
    after: int | None
    residual: Decimal | None
    attacks: Mapping[str, tuple[int, Decimal | None]]
    """Attack to (people at least as high after, what may remain)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is shown."""

    certificate: str
    line: str
    level: str
    sentence: str
    terms: Mapping[str, str]
    issued_on: str
    engine: str
    bounds: Sequence[Mapping[str, Any]]
    limitations: Mapping[str, str]
    strips: Sequence[Strip] = ()
    """Empty without the report."""
    delta: Decimal | None = None
    admitted: str | None = None
    """Under which qualification the method's configuration may certify, with the bound of its risk."""


@dataclass(frozen=True, slots=True)
class Rect:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    fill: str


@dataclass(frozen=True, slots=True)
class Disc:
    """A filled circle."""

    x: float
    y: float
    radius: float
    fill: str


@dataclass(frozen=True, slots=True)
class Diamond:
    """A filled square on its corner."""

    x: float
    y: float
    radius: float
    fill: str


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text; y is its base line."""

    x: float
    y: float
    words: str
    size: int = 13
    fill: str = INK
    bold: bool = False
    anchor: Anchor = "start"


Shape = Rect | Disc | Diamond | Text


@dataclass(slots=True)
class Scene:
    """Shapes from back to front, and how high the sheet is."""

    shapes: list[Shape] = field(default_factory=list)
    height: float = MARGIN

    def add(self, *shapes: Shape) -> None:
        """Draw these on top."""
        self.shapes.extend(shapes)

    def down(self, pixels: float) -> float:
        """Leave room, and return where that ends."""
        self.height += pixels
        return self.height


# What is shown -------------------------------------------------------------------------------------


def facts(statement: Mapping[str, Any], claim: Mapping[str, Any], report: Mapping[str, Any] | None) -> Facts:
    """Return what a checked statement says, and what the verification report adds to it."""
    predicate = statement["predicate"]
    decision = (report or {}).get("decision")
    return Facts(
        certificate=predicate["certificateId"],
        line=predicate["model"]["line"],
        level=claim["level"],
        sentence=claim["sentence"],
        terms=claim["terms"],
        issued_on=predicate["issuedOn"],
        engine=predicate["method"]["engine"],
        bounds=predicate["verification"]["bounds"],
        limitations=claim["limitations"],
        strips=tuple(_strips(decision)) if decision else (),
        delta=_decimal(decision.get("delta")) if decision else None,
        admitted=_admitted(decision.get("admission")) if decision else None,
    )


def _admitted(admission: Mapping[str, Any] | None) -> str | None:
    if admission is None:
        return None
    return (
        f"This configuration is qualified: {admission['losses']} of {admission['sentinels']} planted people"
        f" were not erased, so it fails for at most {percent(Decimal(admission['risk_upper']))} of them."
    )


def _strips(decision: Mapping[str, Any]) -> Iterator[Strip]:
    """Yield a strip per form, for each subject in turn."""
    forms = decision.get("forms", [])
    names = [form["form"] for form in forms]
    several = len(names) > len(set(names))
    for place, form in enumerate(forms):
        m = int(form["m"])
        number = names[: place + 1].count(form["form"])
        yield Strip(
            label=f"{form['form']}, person {number}" if several else form["form"],
            m=m,
            before=_as_high(form["p0"], m),
            after=_as_high(form["p1"], m),
            residual=_decimal(form["residual_upper"]),
            attacks={
                score["attack"]: (_as_high(score["p1"], m) or 0, _decimal(score["residual_upper"]))
                for score in form["scores"]
            },
        )


def _as_high(p: str | None, m: int) -> int | None:
    """Return how many of m others score at least as high: p is that and one, of m and one."""
    return None if p is None else round(Fraction(p) * (m + 1)) - 1


def _decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def percent(share: Decimal) -> str:
    """Return a share as people read it, never below what it is: "5.8 %"."""
    tenths = -(-Fraction(share) * 1000 // 1)
    return f"{tenths // 10}.{tenths % 10} %"


def standing(count: int | None, m: int) -> str:
    """Return where someone stands, in words."""
    if count is None:
        return "not measured"
    return f"above all {m} people" if count == 0 else f"{count} of {m} people score as high or higher"


# The picture ---------------------------------------------------------------------------------------


def pictured(shown: Facts) -> Scene:
    """Return the sheet: level, strips, bounds, precisions by attack."""
    scene = Scene()
    _heading(scene, shown)
    if shown.strips:
        _legend(scene)
        for strip in shown.strips[:FORMS_MAX]:
            _strip(scene, strip)
        _bars(scene, [(each.label, each.residual) for each in shown.strips[:FORMS_MAX]], shown.delta)
        _grid(scene, shown.strips[:FORMS_MAX])
    else:
        bounds = [each for each in shown.bounds if each["name"] == "residual_ratio_upper"][:FORMS_MAX]
        limit = Decimal(bounds[0]["limit"]) if bounds and bounds[0].get("limit") else None
        _bars(scene, [(each["form"], Decimal(each["value"])) for each in bounds], limit)
        scene.add(
            Text(MARGIN, scene.down(24), "Ranks are in the verification report, for auditors.", 12, FAINT)
        )
    scene.down(MARGIN)
    return scene


def _heading(scene: Scene, shown: Facts) -> None:
    scene.add(Text(MARGIN, scene.down(18), f"Level: {_cut(shown.level, 40)}", 24, bold=True))
    scene.add(Text(MARGIN, scene.down(24), _cut(f"{shown.line}, by {shown.engine}", 90), 14))
    scene.add(Text(MARGIN, scene.down(20), _cut(f"{shown.certificate}, {shown.issued_on}", 100), 12, FAINT))
    for line in (*_wrapped(shown.sentence, 104), *_wrapped(shown.admitted or "", 104)):
        scene.add(Text(MARGIN, scene.down(18), line))


def _legend(scene: Scene) -> None:
    scene.add(Text(MARGIN, scene.down(38), "The person among people the model never saw", 16, bold=True))
    y = scene.down(22)
    scene.add(Diamond(MARGIN + 7, y - 4, 7, BEFORE), Text(MARGIN + 20, y, "before"))
    scene.add(Disc(MARGIN + 87, y - 4, 6, AFTER), Text(MARGIN + 100, y, "after"))
    scene.add(
        Rect(MARGIN + 150, y - 11, 16, 14, ALARM),
        Text(MARGIN + 172, y, "where the test at 5 % finds someone"),
    )
    scene.add(Text(MARGIN + STRIP, y, "more memorised on this side", 12, FAINT, anchor="end"))


def _strip(scene: Scene, strip: Strip) -> None:
    scene.add(Text(MARGIN, scene.down(30), _cut(f"{strip.label} ({strip.m} people)", 80), bold=True))
    top = scene.down(12)
    found = (strip.m + 1) // 20  # k(.05): a rank of at most so many
    step = STRIP / max(strip.m, 1)
    scene.add(Rect(MARGIN, top, STRIP, 26, "#f1f3f5"))
    scene.add(Rect(MARGIN + STRIP - found * step, top, found * step, 26, ALARM))
    for place in range(min(strip.m, STRIP // 2)):
        x = MARGIN + (place + 0.5) * STRIP / min(strip.m, STRIP // 2)
        scene.add(Rect(round(x, 2), top + 6, 1, 14, RULE))
    if strip.before is not None:
        scene.add(Diamond(_place(strip.before, strip.m), top + 13, 10, BEFORE))
    if strip.after is not None:
        scene.add(Disc(_place(strip.after, strip.m), top + 13, 8, AFTER))
    said = f"before: {standing(strip.before, strip.m)}; after: {standing(strip.after, strip.m)}"
    scene.add(Text(MARGIN, scene.down(26 + 16), said, 12, FAINT))


def _place(as_high: int, m: int) -> float:
    """Return where on the strip someone stands with so many to the right."""
    return round(MARGIN + STRIP * (1 - as_high / max(m, 1)), 2)


def _bars(scene: Scene, bars: Sequence[tuple[str, Decimal | None]], limit: Decimal | None) -> None:
    scene.add(Text(MARGIN, scene.down(38), "What may remain at most, of what was memorised", 16, bold=True))
    left, room = MARGIN + 200, STRIP - 280
    for label, value in bars:
        y = scene.down(26)
        scene.add(Text(MARGIN, y, _cut(label, 28)), Rect(left, y - 12, room, 16, "#f1f3f5"))
        if value is None:
            scene.add(Text(left + 6, y, "no bound", 12, FAINT))
            continue
        over = limit is not None and value > limit
        scene.add(
            Rect(left, y - 12, round(room * float(min(value, Decimal(1))), 2), 16, BEFORE if over else AFTER)
        )
        scene.add(Text(left + room + 8, y, percent(value)))
    if not bars:
        scene.add(Text(MARGIN, scene.down(24), "No bound belongs to this level.", 12, FAINT))
    elif limit is not None:
        x = left + room * float(min(limit, Decimal(1)))
        height = 26 * len(bars)
        scene.add(Rect(round(x, 2), scene.height - height + 8, 2, height, INK))
        scene.add(Text(x, scene.down(20), f"limit {percent(limit)}", 12, FAINT, anchor="middle"))


def _grid(scene: Scene, strips: Sequence[Strip]) -> None:
    attacks = list(dict.fromkeys(name for strip in strips for name in strip.attacks))
    scene.add(Text(MARGIN, scene.down(38), "Each attack in each precision, after", 16, bold=True))
    said = "people of all who score as high or higher, and what may remain at most"
    scene.add(Text(MARGIN, scene.down(20), said, 12, FAINT))
    columns = [MARGIN + 200 + n * (STRIP - 200) / max(len(attacks), 1) for n in range(len(attacks))]
    y = scene.down(22)
    for x, attack in zip(columns, attacks, strict=True):
        scene.add(Text(round(x, 2), y, _cut(attack, 18), 12, FAINT))
    for strip in strips:
        y = scene.down(22)
        scene.add(Rect(MARGIN, y - 16, STRIP, 1, RULE), Text(MARGIN, y, _cut(strip.label, 28)))
        for x, attack in zip(columns, attacks, strict=True):
            scene.add(Text(round(x, 2), y, cell(strip, attack), 12))


def cell(strip: Strip, attack: str) -> str:
    """Return what one attack found in one form: people at least as high, and what may remain."""
    if attack not in strip.attacks:
        return "not run"
    as_high, residual = strip.attacks[attack]
    bound = "no bound" if residual is None else percent(residual)
    return f"{as_high}/{strip.m}, {bound}"


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 3] + "..."


def _wrapped(words: str, most: int) -> list[str]:
    lines = [""] if words else []
    for word in words.split():
        if len(lines[-1]) + len(word) >= most and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


# As text -------------------------------------------------------------------------------------------


def svg(scene: Scene, *, title: str, description: str) -> str:
    """Return the sheet as SVG; its title and description are read out where it cannot be seen."""
    drawn = "\n".join(_drawn(shape) for shape in scene.shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="t d" width="{WIDTH}"'
        f' height="{scene.height:g}" viewBox="0 0 {WIDTH} {scene.height:g}" font-family="sans-serif">\n'
        f'<title id="t">{escape(title)}</title>\n<desc id="d">{escape(description)}</desc>\n'
        f'<rect width="{WIDTH}" height="{scene.height:g}" fill="{BACK}"/>\n{drawn}\n</svg>\n'
    )


def _drawn(shape: Shape) -> str:
    match shape:
        case Rect():
            at = f'x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" height="{shape.height:g}"'
            return f'<rect {at} fill="{shape.fill}"/>'
        case Disc():
            return f'<circle cx="{shape.x:g}" cy="{shape.y:g}" r="{shape.radius:g}" fill="{shape.fill}"/>'
        case Diamond():
            points = " ".join(f"{x:g},{y:g}" for x, y in corners(shape))
            return f'<polygon points="{points}" fill="{shape.fill}"/>'
        case Text():
            weight = ' font-weight="bold"' if shape.bold else ""
            return (
                f'<text x="{shape.x:g}" y="{shape.y:g}" font-size="{shape.size}" fill="{shape.fill}"'
                f' text-anchor="{shape.anchor}"{weight}>{escape(shape.words)}</text>'
            )


def corners(shape: Diamond) -> list[tuple[float, float]]:
    """Return the four corners, from the left."""
    x, y, r = shape.x, shape.y, shape.radius
    return [(x - r, y), (x, y - r), (x + r, y), (x, y + r)]


def described(shown: Facts) -> str:
    """Return the picture in words."""
    said = [f"Level {shown.level}."]
    for strip in shown.strips:
        remains = "no bound" if strip.residual is None else f"at most {percent(strip.residual)} remains"
        said.append(
            f"{strip.label}: before, {standing(strip.before, strip.m)}; after, "
            f"{standing(strip.after, strip.m)}; {remains}."
        )
    if not shown.strips:
        said += [f"{each['name']} in {each['form']}: {each['value']}." for each in shown.bounds]
    return " ".join(said)


def html(shown: Facts) -> str:
    """Return one page that needs nothing else: no script, no network, tables beside the picture."""
    title = f"Erasure certificate {shown.certificate}"
    admitted = f"<p>{escape(shown.admitted)}</p>\n" if shown.admitted else ""
    picture = svg(pictured(shown), title=title, description=described(shown))
    terms = _table("What the words stand for", ("word", "meaning"), list(shown.terms.items()))
    limits = "".join(
        f"<li><b>{escape(code)}</b> {escape(text)}</li>" for code, text in shown.limitations.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
body {{ max-width: {WIDTH}px; margin: 2em auto; padding: 0 1em; font: 16px/1.5 sans-serif; color: {INK}; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; width: 100%; margin: 1.5em 0; }}
caption {{ text-align: left; font-weight: bold; }}
th, td {{ text-align: left; border-bottom: 1px solid {RULE}; padding: .3em .6em .3em 0; }}
td, h1 {{ overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>{escape(shown.sentence)}</p>
{admitted}<figure>
{picture}</figure>
{_numbers(shown)}{terms}<h2>Limits</h2>
<ul>{limits}</ul>
<p>This page shows what a certificate says and proves nothing: the certificate proves it, checked with the
issuer's trust file (<code>lethe certificate check</code>).</p>
</main>
</body>
</html>
"""


def _numbers(shown: Facts) -> str:
    bounds = _table(
        "Bounds that the certificate states",
        ("bound", "form", "value", "limit", "confidence"),
        [
            tuple(str(each.get(name) or "") for name in ("name", "form", "value", "limit", "confidence"))
            for each in shown.bounds
        ],
    )
    ranks = _table(
        "Where the person stands",
        ("form", "before", "after", "may remain"),
        [
            (
                each.label,
                standing(each.before, each.m),
                standing(each.after, each.m),
                "no bound" if each.residual is None else f"at most {percent(each.residual)}",
            )
            for each in shown.strips
        ],
    )
    attacks = _table(
        "Each attack, after: people as high or higher, and what may remain at most",
        ("form", "attack", "found"),
        [(each.label, attack, cell(each, attack)) for each in shown.strips for attack in each.attacks],
    )
    return bounds + ranks + attacks


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(f"<tr>{_cells(row)}</tr>\n" for row in rows)
    return f"<table>\n<caption>{escape(caption)}</caption>\n<tr>{head}</tr>\n{body}</table>\n"


def _cells(row: Sequence[str]) -> str:
    first, *rest = (escape(each) for each in row)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{each}</td>" for each in rest)
