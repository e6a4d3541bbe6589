"""The fields of peft.LoraConfig that a run may pass through (lora.peft.NAME), with what each may be.

PEFT takes the word "off" for true, leaves out numbers that it cannot use, and finds other mistakes in the middle of a
training. A test compares the names with those of the installed PEFT.
"""

import contextlib
import math
import re
from collections.abc import Callable
from typing import Any


def is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_pattern, value)) and all(map(is_count, value.values()))


def is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_pattern, value)) and all(map(is_number, value.values()))


def is_pattern(value: Any) -> bool:
    with contextlib.suppress(re.error):
        return isinstance(value, str) and bool(value and re.compile(value))
    return False


def is_patterns(value: Any) -> bool:
    return all(map(is_pattern, listed(value)))


def is_blocks(value: Any) -> bool:
    return all(type(number) is int and number >= 0 for number in listed(value))


def is_start(value: Any) -> bool:
    named = r"gaussian|orthogonal|olora|pissa(_niter_[1-9]\d*)?"
    return isinstance(value, bool) or bool(re.fullmatch(named, str(value)))


def is_bias(value: Any) -> bool:
    return value in ("none", "all", "lora_only")


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


Field = tuple[str, Callable[[Any], bool]]  # what it may be in words, and a test of it
SWITCH: Field = ("true or false", is_switch)
PATTERNS: Field = ("a regular expression, or a list of names", is_patterns)
PEFT_FIELDS: dict[str, Field] = {
    "use_rslora": SWITCH,
    "use_dora": SWITCH,
    "init_lora_weights": ("true, false, gaussian, orthogonal, olora, pissa or pissa_niter_N", is_start),
    "rank_pattern": ("a whole number above 0 for each pattern of names: {pattern: 4}", is_counts),
    "alpha_pattern": ("a number above 0 for each pattern of names: {pattern: 8}", is_numbers),
    "bias": ("none, all or lora_only", is_bias),
    "lora_bias": SWITCH,
    "layers_to_transform": ("the number of a block, or a list of them", is_blocks),
    "layers_pattern": PATTERNS,
    "exclude_modules": PATTERNS,
    "use_qalora": SWITCH,
    "qalora_group_size": ("a whole number above 0", is_count),
}
