"""Words for people: counts with their nouns."""


def counted(count: int, singular: str, plural: str = "") -> str:
    """'1 group', '12 groups', '1,200 groups'; `plural` where it is not the singular with an s."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def interval(low: float | None, high: float | None, form: str = ".3f") -> str:
    """'95 % interval [-0.310, -0.120]', or why there is none."""
    if low is None or high is None:
        return "no interval: too few held-out groups"
    return f"95 % interval [{low:{form}}, {high:{form}}]"


def change(difference: float, base: float) -> str:
    """'-46.7 %': a difference as a share of what it is to. "" where that is zero.

    Of its size, so that a number above another one has grown, also where both are negative (a log likelihood).
    """
    return f"{100 * difference / abs(base):+.1f} %" if base else ""
