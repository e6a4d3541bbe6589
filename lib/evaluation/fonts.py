"""Type for names in any script: Matplotlib's own font has no Chinese, and would draw a box for every character."""

import contextlib
from collections.abc import Iterable, Iterator

ALWAYS = "DejaVu Sans"  # comes with Matplotlib


@contextlib.contextmanager
def for_texts(texts: Iterable[str]) -> Iterator[None]:
    """Within the block figures are drawn in a font that has these texts; where none has, one sentence says so."""
    import warnings

    import matplotlib

    lacking = missing({character for text in texts for character in text if character.isprintable()})
    further = family_with(lacking) if lacking else ""
    if lacking and not further:
        shown = "".join(sorted(lacking)[:8])
        print(f"  no installed font has {shown}: figures show boxes there (on Debian: apt install fonts-noto-cjk)")
    with matplotlib.rc_context({"font.family": [ALWAYS, further] if further else [ALWAYS]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def missing(characters: set[str]) -> set[str]:
    """Those that Matplotlib's own font lacks."""
    from matplotlib import font_manager

    return characters - has(font_manager.findfont(ALWAYS), characters)


def family_with(characters: set[str]) -> str:
    """The family of the first font of Matplotlib's list that has all of the characters, "" where none has."""
    from matplotlib import font_manager

    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.weight != 400, font.name)):
        with contextlib.suppress(OSError, RuntimeError):  # a font file that was removed, or that is broken
            if has(font.fname, characters) == characters:
                return font.name
    return ""


def has(font_file: str, characters: set[str]) -> set[str]:
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font_file).get_charmap()
    return {character for character in characters if ord(character) in known}
