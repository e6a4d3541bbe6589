"""Words for people: counts with their nouns."""


def counted(count: int, singular: str, plural: str = "") -> str:
    """'1 group', '12 groups', '1,200 groups'; `plural` where it is not the singular with an s."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
