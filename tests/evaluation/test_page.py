"""The report in a real browser: on a phone and on a desk, light and dark; nothing overflows, fails or asks outside."""

import pytest
from PIL import Image

from lib.evaluation import report
from tests import browser
from tests.evaluation.test_report import change, make_run

pytestmark = pytest.mark.skipif(not browser.executable(), reason=browser.ABSENT)
UNFOLD = "document.querySelectorAll('details').forEach(one => one.open = true)"
LONG = "a_group_whose_name_is_longer_than_any_telephone_is_wide_" * 2
# Clicks a head of the table of groups twice and reads the first column: falling, then.
SORT = (
    UNFOLD
    + """;
const head = document.querySelectorAll('table.sortable thead button')[COLUMN];
head.click(); head.click();
[...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[0].textContent)
"""
)


@pytest.fixture(scope="module")
def address():
    with browser.opened() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("page"))
    (run.folder / "figures").mkdir()
    Image.new("RGB", (1400, 500), "teal").save(run.folder / "figures" / "wide.png")
    values = {"scene2": 0.3, "scene10": 0.1, LONG: 0.2}
    change(run.scores, by_group={name: {"n": 4, "base": base, "adapted": 0.15} for name, base in values.items()})
    return report.write(run.folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", [390, 1280])
def test_the_page_fits_is_silent_and_needs_nothing_from_outside(address, page, width_px, scheme, tmp_path):
    shown = browser.show(address, page, width_px, scheme, UNFOLD)
    assert shown.overflow == {"width": width_px, "page": width_px, "elements": []}
    assert not shown.said and not shown.asked
    (tmp_path / "page.png").write_bytes(shown.picture)
    corner = Image.open(tmp_path / "page.png").convert("L").getpixel((2, 2))
    assert (corner > 200) == (scheme == "light")


def test_a_page_that_is_too_wide_fails_or_asks_outside_is_noticed(address, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<p style='width:2000px'>x</p><script>oops()</script><img src='http://127.0.0.1:9/x.png'>")
    shown = browser.show(address, bad, 1280, "light")
    assert shown.overflow["elements"] and any("oops" in line for line in shown.said)
    assert shown.asked == ["http://127.0.0.1:9/x.png"]


def test_the_table_of_groups_sorts_by_name_and_by_number(address, page):
    by_name = browser.show(address, page, 1280, "light", SORT.replace("COLUMN", "0")).answer
    by_base = browser.show(address, page, 1280, "light", SORT.replace("COLUMN", "2")).answer
    assert by_name == ["scene10", "scene2", LONG]  # 10 after 2, and falling
    assert by_base == ["scene2", LONG, "scene10"]
