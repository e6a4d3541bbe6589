"""The guide's table by amount of data."""

import json

import pytest

from lib.recipes.vavae_microdoppler import strategy
from tests import long


def test_the_table_says_what_the_long_run_measured():
    """What the guide recommends for few images is not what was best in the demo, and the table says so."""
    presets = json.loads(long.RESULTS.read_text())["vavae_microdoppler"]["presets"]
    reached = {name: f"{100 * row['also']['user_accuracy']['adapted']:.0f} %" for name, row in presets.items()
               if "user_accuracy" in row["also"]}  # fmt: skip
    few, more = strategy.by_amount(10), strategy.by_amount(10_000)
    assert f"in the demo {reached['dit_frozen']} of its images" in few
    assert f"{reached['dit_scratch_s']} of those from scratch" in few and f"in the demo {reached['dit_lora']}" in more


@pytest.mark.parametrize(("images", "row"), [
    (0, "below 5,000"), (4_999, "frozen_encoder"), (5_000, "below 20,000"), (19_999, "dit_lora"),
    (20_000, "20,000 and more"), (10**6, "three_stages"),
])  # fmt: skip
def test_a_number_of_images_has_its_row(images, row):
    assert row in strategy.by_amount(images)
