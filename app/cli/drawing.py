"""A certificate's picture on a terminal, and as a PNG.

The PNG is drawn by Pillow, the optional extra `pictures`, in its own font: all machines draw alike.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text as Line

from app.certificates import picture
from app.certificates.picture import BACK, WIDTH, Diamond, Disc, Facts, Rect, Scene, Strip, Text, corners
from app.cli.client import Stopped

COLUMNS = 60
"""Of a strip on a terminal."""

SCALE = 2
"""Pixels to a unit, so that print and dense screens are sharp."""

ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(scene: Scene) -> bytes:
    """Return the sheet as PNG."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415  an optional extra
    except ImportError as missing:
        raise Stopped(
            "a PNG needs Pillow: pip install 'lethe[pictures]'; --html needs nothing more"
        ) from missing
    image = Image.new("RGB", (WIDTH * SCALE, round(scene.height * SCALE)), BACK)
    draw = ImageDraw.Draw(image)
    for shape in scene.shapes:
        match shape:
            case Rect():
                far = ((shape.x + shape.width) * SCALE - 1, (shape.y + shape.height) * SCALE - 1)
                if shape.width > 0:
                    draw.rectangle([(shape.x * SCALE, shape.y * SCALE), far], fill=shape.fill)
            case Disc():
                x, y, r = (each * SCALE for each in (shape.x, shape.y, shape.radius))
                draw.ellipse([(x - r, y - r), (x + r, y + r)], fill=shape.fill)
            case Diamond():
                draw.polygon([(x * SCALE, y * SCALE) for x, y in corners(shape)], fill=shape.fill)
            case Text():
                draw.text(
                    (shape.x * SCALE, shape.y * SCALE),
                    shape.words,
                    fill=shape.fill,
                    font=ImageFont.load_default(shape.size * SCALE),
                    anchor=ANCHORS[shape.anchor],
                    stroke_width=1 if shape.bold else 0,  # the built-in font has one weight
                )
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def tell(shown: Facts, console: Console) -> None:
    """Show on a terminal what the picture shows: strips, what may remain, each attack."""
    console.print(f"[bold]Level {shown.level}[/]  ", end="")
    console.print(shown.certificate, markup=False)
    console.print(f"{shown.line}, by {shown.engine}, {shown.issued_on}", markup=False)
    for words in (shown.sentence, shown.admitted):
        if words:
            console.print(words, markup=False)
    for strip in shown.strips:
        console.print(Line(f"\n{strip.label} ({strip.m} people)", style="bold"))
        for word, count, mark, style in (
            ("before", strip.before, "◆", "red"),
            ("after", strip.after, "●", "green"),
        ):
            console.print(Line(f"  {word:7}").append_text(_row(count, strip.m, mark, style)), end="  ")
            console.print(picture.standing(count, strip.m), markup=False)
    if shown.strips:
        console.print("          less memorised" + " " * (COLUMNS - 30) + "more memorised", style="dim")
        console.print(_attacks(shown.strips))
        console.print(_remains(shown))
    else:
        console.print(_bounds(shown))
        console.print("Ranks are in the verification report, for auditors.", style="dim")
    for code, words in shown.limitations.items():
        console.print(f"{code}: {words}", style="dim", markup=False)


def _row(as_high: int | None, m: int, mark: str, style: str) -> Line:
    line = Line("·" * COLUMNS, style="dim")
    if as_high is None:
        return line
    place = round((1 - as_high / max(m, 1)) * (COLUMNS - 1))
    return (
        Line("·" * place, style="dim")
        .append(mark, style=style)
        .append("·" * (COLUMNS - 1 - place), style="dim")
    )


def _attacks(strips: Sequence[Strip]) -> Table:
    names = list(dict.fromkeys(name for strip in strips for name in strip.attacks))
    drawn = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title="each attack, after: as high or higher, what may remain at most",
        title_justify="left",
    )
    for name in ("form", *names):
        drawn.add_column(Line(name), overflow="fold")
    for strip in strips:
        drawn.add_row(Line(strip.label), *(Line(picture.cell(strip, name)) for name in names))
    return drawn


def _remains(shown: Facts) -> Line:
    line = Line("may remain at most: ")
    parts = [
        f"{each.label} {'no bound' if each.residual is None else picture.percent(each.residual)}"
        for each in shown.strips
    ]
    limit = "" if shown.delta is None else f" (limit {picture.percent(shown.delta)})"
    return line.append("; ".join(parts) + limit)


def _bounds(shown: Facts) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("bound", "form", "value", "limit", "confidence"):
        drawn.add_column(name)
    for each in shown.bounds:
        drawn.add_row(*_told(each))
    return drawn


def _told(bound: Mapping[str, Any]) -> Iterator[Line]:
    for name in ("name", "form", "value", "limit", "confidence"):
        yield Line(str(bound.get(name) or ""))
