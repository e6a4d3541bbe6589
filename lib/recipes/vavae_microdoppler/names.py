"""Names of users in figures: as their folders are called, in any script that a font here can draw."""

from lib.core.records import Row

SCRIPTS = (  # fonts with Chinese, Japanese and Korean characters, where the system has one
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Droid Sans Fallback",
)  # fmt: skip
USUAL = "DejaVu Sans"  # comes with Matplotlib


def users(rows: list[Row]) -> dict[int, str]:
    """Label -> name of the user, in the order of the labels."""
    return dict(sorted({int(row.numbers["label"]): row.texts["user"] for row in rows}.items()))


def drawable(text: str) -> str:
    """The name, or with \\u.... for what no font here can draw: a row of empty boxes names nobody."""
    known = {code for font in fonts() for code in characters(font)}
    return "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in text).replace("$", r"\$")


def fonts() -> list[str]:
    """The usual font and those of other scripts that are installed; Matplotlib takes the next where one lacks a
    character.
    """
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return [USUAL, *(name for name in SCRIPTS if name in installed)]


def characters(font: str) -> set[int]:
    from matplotlib import font_manager

    return set(font_manager.get_font(font_manager.findfont(font)).get_charmap())
