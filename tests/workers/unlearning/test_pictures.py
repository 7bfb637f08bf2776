"""A picture is its bytes: what is written is read, and what is no picture is refused without a word of it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.unlearning.data import BadData
from workers.unlearning.pictures import Picture

PREFIX = "data:image/x-portable-anymap;base64,"


def encoded(raw: bytes) -> str:
    return PREFIX + base64.b64encode(raw).decode()


def test_the_two_pixels_of_the_docstring() -> None:
    """Red beside blue: P6, 2 x 1, one byte per sample."""
    text = "data:image/x-portable-anymap;base64,UDYKMiAxCjI1NQr/AAAAAP8="
    assert text == encoded(b"P6\n2 1\n255\n" + bytes([255, 0, 0, 0, 0, 255]))
    picture = Picture.read(text)
    assert (picture.width, picture.height, picture.channels) == (2, 1, 3)
    assert picture.shape == (1, 2, 3)
    assert picture.samples == b"\xff\x00\x00\x00\x00\xff"


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]), st.data())
def test_what_is_written_is_read(width: int, height: int, channels: int, data: st.DataObject) -> None:
    size = width * height * channels
    samples = data.draw(st.binary(min_size=size, max_size=size))  # bytes that look like white space too
    picture = Picture(width=width, height=height, channels=channels, samples=samples)
    assert Picture.read(picture.text()) == picture


def test_comments_of_a_header_are_passed_over() -> None:
    assert Picture.read(encoded(b"P5\n# a tool's name\n1 2\n255\nab")).samples == b"ab"


@pytest.mark.parametrize(
    "text",
    [
        "somebody's secret",
        PREFIX + "not base64!",
        encoded(b"\x89PNG\r\n\x1a\n somebody's secret"),
        encoded(b"P6\n1 1\n65535\n123456"),  # two bytes per sample
        encoded(b"P5\n2 2\n255\nabc"),  # one short
        encoded(b"P5\n2 2\n255\nabcde"),  # one long
        encoded(b"P5\n0 2\n255\n"),
    ],
)
def test_what_is_no_picture_is_bad_data_and_is_not_repeated(text: str) -> None:
    with pytest.raises(BadData) as refused:
        Picture.read(text)
    assert "secret" not in str(refused.value)


def test_a_picture_counts_as_its_patches() -> None:
    lengths = [
        Picture(width=side, height=side, channels=1, samples=bytes(side * side)).length
        for side in (1, 16, 17, 224)
    ]
    assert lengths == [1, 1, 2, 196]
