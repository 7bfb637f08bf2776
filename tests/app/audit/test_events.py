"""The vocabulary of the audit chain: each kind once, each id written as what it identifies."""

import dataclasses
import importlib
import pkgutil
import typing
from datetime import UTC, datetime
from uuid import UUID

import pytest

from app.audit import events, service

KINDS = [
    each
    for each in vars(events).values()
    if isinstance(each, type) and issubclass(each, events.Event) and each is not events.Event
]
SAMPLES: dict[object, object] = {
    UUID: UUID(int=1),
    datetime: datetime(2026, 11, 21, tzinfo=UTC),
    str: "code",
    int: 1,
    bytes: b"\x01",
}


def _sample(annotation: object) -> object:
    """Return a value of the annotated type: of a union the first, of a tuple one item."""
    if typing.get_origin(annotation) is tuple:
        return ("code",)
    for kind, value in SAMPLES.items():
        if annotation is kind or kind in typing.get_args(annotation):
            return value
    raise AssertionError(f"an event cannot hold {annotation}")


def test_every_event_of_every_module_is_in_the_vocabulary() -> None:
    """By its name and as itself: of two of one name, one would never be found among the kinds."""
    modules = [each.name for each in pkgutil.iter_modules(events.__path__, f"{events.__name__}.")]
    defined = [
        each
        for name in modules
        for each in vars(importlib.import_module(name)).values()
        if isinstance(each, type) and issubclass(each, events.Event) and each.__module__ == name
    ]
    assert len(defined) == len(KINDS) + 1
    assert [each for each in defined if getattr(events, each.__name__, None) is not each] == []


def test_a_kind_means_one_thing() -> None:
    kinds = [each.KIND for each in KINDS]
    assert len(kinds) == len(set(kinds))
    assert all(kind.count(".") == 1 for kind in kinds)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_every_event_can_be_written(kind: type[events.Event]) -> None:
    hints = typing.get_type_hints(kind)
    event = kind(**{each.name: _sample(hints[each.name]) for each in dataclasses.fields(kind)})
    body = service.canonical(event)
    assert b"00000000-0000-0000" not in body or b"urn:uuid:" in body
    assert service.about(event) is not None
