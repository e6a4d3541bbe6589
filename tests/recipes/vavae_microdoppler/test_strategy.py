"""The guide's table by amount of data."""

import pytest

from lib.recipes.vavae_microdoppler import strategy


@pytest.mark.parametrize(("images", "row"), [
    (0, "below 5,000"), (4_999, "frozen_encoder"), (5_000, "below 20,000"), (19_999, "dit_lora"),
    (20_000, "20,000 and more"), (10**6, "three_stages"),
])  # fmt: skip
def test_a_number_of_images_has_its_row(images, row):
    assert row in strategy.by_amount(images)
