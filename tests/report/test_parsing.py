import re
from dataclasses import dataclass, field

import pytest

from titans.report.parsing import parse


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


def test_a_number_that_is_not_finite_becomes_none_only_where_allowed():
    assert parse(float("nan"), float | None) is None
    with pytest.raises(ValueError, match="y should be a finite number, not inf"):
        parse(float("inf"), float, "y")


def test_control_characters_and_surrogates_are_replaced_in_values_and_keys():
    assert parse({"a\x00": "b\ud800\n"}, dict[str, str]) == {"a\ufffd": "b\ufffd\n"}
