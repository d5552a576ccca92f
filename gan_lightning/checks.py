"""What values may be: rules of numbers and choices, and the sentence that refuses a value."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from gan_lightning.errors import UsageError

Rule = tuple[Callable[[Any], bool], str]  # whether a value fits, and what was expected


def is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def whole(least: int) -> Rule:
    return lambda v: is_whole(v) and v >= least, f"a whole number, at least {least}"


def one_of(*options: Any) -> Rule:
    return lambda v: v in options, f"one of {', '.join(map(str, options))}"


SIZE = whole(1)
COUNT = whole(0)
POSITIVE = (lambda v: is_number(v) and v > 0, "a number above 0")
NOT_NEGATIVE = (lambda v: is_number(v) and v >= 0, "a number, at least 0")
SHARE = (lambda v: is_number(v) and 0 <= v < 1, "a number from 0 up to but not including 1")
PROBABILITY = (lambda v: is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
KEEP = (lambda v: is_number(v) and 0 < v <= 1, "a number above 0, at most 1")
FLAG = (lambda v: isinstance(v, bool), "true or false")
SEED = (lambda v: is_whole(v) and 0 <= v < 2**32, "a whole number from 0 to 4294967295")


def optional(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), rule[1]


def check_values(options: object, **rules: Rule) -> None:
    """Raise a UsageError if an option violates its rule."""
    for name, (fits, expected) in rules.items():
        value = getattr(options, name)
        if not fits(value):
            raise UsageError(f"{name} is {value!r}: give {expected}.")
