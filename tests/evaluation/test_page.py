"""The report in a real browser: on a phone and on a desk, light and dark; nothing overflows, fails or asks outside."""

import pytest
from PIL import Image

from lib.evaluation import report
from tests import chromium
from tests.evaluation.test_report import change, make_run

pytestmark = chromium.needed
UNFOLD = "document.querySelectorAll('details').forEach(one => one.open = true)"
LONG = "a_group_whose_name_is_longer_than_any_telephone_is_wide_" * 2
# Elements that reach beyond the page, unless a parent scrolls them; and whether the page itself is too wide.
OVERFLOW = """
(() => {
  const width = document.documentElement.clientWidth;
  const free = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > width + 1
    && !e.closest(".scroll")).map(e => e.tagName + "." + e.className);
  return {width, page: document.documentElement.scrollWidth, elements: free.slice(0, 5)};
})()
"""
# Clicks a head of the table of groups twice and reads the first column: falling, then.
SORT = """
(() => {
  const head = document.querySelectorAll('table.sortable thead button')[COLUMN];
  head.click(); head.click();
  return [...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[0].textContent);
})()
"""


@pytest.fixture(scope="module")
def tab():
    with chromium.page("about:blank") as found:
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
def test_the_page_fits_is_silent_and_needs_nothing_from_outside(tab, page, width_px, scheme, tmp_path):
    tab.resize(width_px, 844)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.go(page)
    tab.run(UNFOLD)
    assert tab.run(OVERFLOW) == {"width": width_px, "page": width_px, "elements": []}
    assert not tab.errors() and outside(tab, page) == []
    tab.picture(tmp_path / "page.png")
    corner = Image.open(tmp_path / "page.png").convert("L").getpixel((2, 2))
    assert (corner > 200) == (scheme == "light")


def test_a_page_that_is_too_wide_fails_or_asks_outside_is_noticed(tab, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<p style='width:2000px'>x</p><script>oops()</script><img src='http://127.0.0.1:9/x.png'>")
    tab.resize(1280, 844)
    tab.go(bad)
    assert tab.run(OVERFLOW)["elements"] and any("oops" in line for line in tab.errors())
    assert outside(tab, bad) == ["http://127.0.0.1:9/x.png"]


def test_the_table_of_groups_sorts_by_name_and_by_number(tab, page):
    tab.go(page)
    tab.run(UNFOLD)
    assert tab.run(SORT.replace("COLUMN", "0")) == ["scene10", "scene2", LONG]  # 10 after 2, and falling
    assert tab.run(SORT.replace("COLUMN", "2")) == ["scene2", LONG, "scene10"]


def outside(tab, page):
    return [url for url in tab.requests() if url != page.resolve().as_uri() and not url.startswith("data:")]
