"""From JSON values to dataclasses: the type annotations are the schema, and every error names its place."""

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# Control characters and lone surrogates: legal in JSON strings, but neither XML nor UTF-8 can hold them.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
WORDS |= {list: "a list", tuple: "a list", dict: "an object"}


def parse(value: Any, kind: Any, at: str = "", *, all_known: bool = False) -> Any:
    """Checks a JSON value against a type annotation and builds what the annotation names.

    Knows str, int, float, bool, None, Literal, unions, list[...], tuple[...], dict[str, ...] and dataclasses of
    these. A number that is not finite becomes None where the annotation allows it.

    Args:
        at: where the value stands, for the messages ("training.curves").
        all_known: refuse keys that a dataclass does not have; otherwise they are ignored.
    Raises:
        ValueError: one line with the place, what is expected there and what was found.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    inner = partial(parse, all_known=all_known)
    if origin in (Union, UnionType):
        return _parse_union(value, arguments, at, inner)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{at} should be one of {', '.join(arguments)}, not {value!r}")
        return value
    if is_dataclass(kind):
        return _parse_dataclass(_expect(value, dict, at), kind, at, inner, all_known)
    if origin is list:
        return [inner(item, arguments[0], f"{at}[{i}]") for i, item in enumerate(_expect(value, list, at))]
    if origin is dict:
        items = _expect(value, dict, at).items()
        return {_printable(name): inner(item, arguments[1], _join(at, name)) for name, item in items}
    if origin is tuple:
        return _parse_tuple(value, arguments, at, inner)
    if kind is float:
        return _parse_float(value, at)
    return _printable(value) if kind is str and isinstance(value, str) else _expect(value, kind, at)


def check_types(config: Any) -> None:
    """Holds the fields of a frozen dataclass to their annotations, as `parse` does for JSON values: a list that stands
    for a tuple becomes one.

    Raises:
        ValueError: one line with the field, what is expected there and what was found.
    """
    hints: dict[str, Any] = get_type_hints(type(config))
    for name, kind in hints.items():
        value, at = getattr(config, name), f"{type(config).__name__}.{name}"
        if not is_dataclass(kind):
            parsed = parse(value, kind, at)
            if isinstance(parsed, tuple):
                object.__setattr__(config, name, parsed)
        elif type(value) is not kind:
            raise ValueError(f"{at} should be a {hints[name].__name__}, not {_name(value)}")


def require(owner: Any, field: str, holds: bool, expected: str) -> None:
    """Raises a ValueError with the field of `owner`, its value and what it must be, unless `holds`."""
    if not holds:
        raise ValueError(f"{type(owner).__name__}.{field} is {getattr(owner, field)!r}; it must be {expected}")


def _parse_union(value: Any, kinds: tuple, at: str, inner: Callable) -> Any:
    if value is None and NoneType in kinds:
        return None
    if NoneType in kinds and isinstance(value, float) and not math.isfinite(value):
        return None
    choices = [kind for kind in kinds if kind is not NoneType]
    if len(choices) == 1:
        return inner(value, choices[0], at)
    for kind in choices:
        try:
            return inner(value, kind, at)
        except ValueError:
            continue
    raise ValueError(f"{at} should be {' or '.join(WORDS[kind] for kind in kinds)}, not {_name(value)}")


def _parse_tuple(value: Any, kinds: tuple, at: str, inner: Callable) -> tuple:
    items = value if isinstance(value, tuple) else _expect(value, list, at)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise ValueError(f"{at} should hold {len(kinds)} values, not {len(items)}")
    return tuple(inner(item, kind, at) for item, kind in zip(items, kinds, strict=True))


def _parse_dataclass(value: dict, kind: Any, at: str, inner: Callable, all_known: bool) -> Any:
    hints, arguments = get_type_hints(kind), {}
    unknown = sorted(value.keys() - hints.keys())
    if all_known and unknown:
        raise ValueError(f"unknown key {_join(at, unknown[0])}; was it written by a newer version of titans?")
    for each in fields(kind):
        if each.name in value:
            arguments[each.name] = inner(value[each.name], hints[each.name], _join(at, each.name))
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{_join(at, each.name)} is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(_join(at, str(error))) from error


def _parse_float(value: Any, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{at} should be a number, not {_name(value)}")
    if not math.isfinite(value):
        raise ValueError(f"{at} should be a finite number, not {value}")
    return float(value)


def _expect(value: Any, kind: type, at: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{at or 'it'} should be {WORDS[kind]}, not {_name(value)}")
    return value


def _name(value: Any) -> str:
    return WORDS.get(type(value), type(value).__name__)


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _join(at: str, name: str) -> str:
    return f"{at}.{_printable(name)}" if at else _printable(name)
