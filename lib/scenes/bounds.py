"""Bounds of numbers that a person may set; what lies outside is refused by its key. No torch."""

import math

from lib.core.config import allowed
from lib.core.errors import Stop


def within(key: str, value: float, low: float, high: float = math.inf) -> None:
    """Stop unless low <= value <= high; what is not a finite number never is."""
    words = f"at least {low}" if math.isinf(high) else f"from {low} to {high}"
    allowed(key, words)
    if not low <= value <= high or math.isinf(value):
        raise Stop(f"{key}={value} is impossible: it must be {words}")


def multiple(key: str, value: int, of: str, unit: int) -> None:
    """Stop unless value is unit, twice unit, …; `of` is what the message calls the unit."""
    if unit < 1 or value < 1 or value % unit:
        named = of if of == str(unit) else f"{of} = {unit}"
        raise Stop(f"{key} = {value} is not a positive multiple of {named}")
