import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from titans.parsing import parse


@dataclass
class Point:
    x: int
    y: float | None = None


@dataclass
class Drawing:
    points: list[Point]
    names: dict[str, str | int] = field(default_factory=dict)
    size: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("points should not be empty")


def test_builds_nested_dataclasses_and_fills_defaults():
    value = {"points": [{"x": 1, "y": 2}, {"x": 3, "unknown": 4}], "names": {"a": 1, "b": "c"}, "size": [4, 5]}
    expected = Drawing(points=[Point(1, 2.0), Point(3)], names={"a": 1, "b": "c"}, size=(4, 5))
    assert parse(value, Drawing) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "points is missing"),
        ([], "it should be an object, not a list"),
        ({"points": {}}, "points should be a list, not an object"),
        ({"points": [{"x": 1}, {}]}, "points[1].x is missing"),
        ({"points": [{"x": 1.5}]}, "points[0].x should be a whole number, not a number"),
        ({"points": [{"x": True}]}, "points[0].x should be a whole number, not true or false"),
        ({"points": [{"x": 1, "y": "2"}]}, "points[0].y should be a number, not text"),
        ({"points": [{"x": 1}], "names": {"a": []}}, "names.a should be text or a whole number, not a list"),
        ({"points": [{"x": 1}], "size": [1]}, "size should hold 2 values, not 1"),
        ({"points": []}, "points should not be empty"),
    ],
)
def test_an_error_names_the_place_and_what_was_expected(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(value, Drawing)


@dataclass
class Settings:
    colour: Literal["red", "blue"] = "red"
    sizes: tuple[int, ...] | None = None
    inner: Point | None = None


def test_choices_and_tuples_of_any_length():
    value = {"colour": "blue", "sizes": [1, 2, 3], "inner": {"x": 1}}
    assert parse(value, Settings, all_known=True) == Settings("blue", (1, 2, 3), Point(1))
    with pytest.raises(ValueError, match="colour should be one of red, blue, not 'green'"):
        parse({"colour": "green"}, Settings)


def test_unknown_keys_can_be_refused_at_any_depth():
    assert parse({"shape": 1, "inner": {"x": 1, "z": 2}}, Settings) == Settings(inner=Point(1))
    for value, key in (({"shape": 1}, "shape"), ({"inner": {"x": 1, "z": 2}}, "inner.z")):
        with pytest.raises(ValueError, match=f"unknown key {key};"):
            parse(value, Settings, all_known=True)


def test_a_number_that_is_not_finite_becomes_none_only_where_allowed():
    assert parse(float("nan"), float | None) is None
    with pytest.raises(ValueError, match="y should be a finite number, not inf"):
        parse(float("inf"), float, "y")


def test_control_characters_and_surrogates_are_replaced_in_values_and_keys():
    assert parse({"a\x00": "b\ud800\n"}, dict[str, str]) == {"a\ufffd": "b\ufffd\n"}
