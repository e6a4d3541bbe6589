"""The guide's tables of what to adapt: by the amount of data and by its likeness to photographs. No torch here.

Spectrograms are of low likeness: a deep adaptation from the published weights, or from random ones where these are no
use at all (the guide's plan B, model.weights=scratch: 200 epochs or more in all three stages).
"""

from typing import NamedTuple


class Row(NamedTuple):
    """Of the table by amount: below how many images, and what to freeze."""

    below: float
    encoder: str
    dit: str


BY_AMOUNT = (
    Row(5_000, "freeze the first 3-4 encoder levels (model.freeze_encoder_layers=3, preset frozen_encoder)",
        "freeze attention and MLPs (preset dit_frozen; in the demo 70 % of its images show the right user, and 81 % of "
        "those from scratch)"),
    Row(20_000, "freeze the first 2-3 encoder levels (model.freeze_encoder_layers=2)",
        "freeze most of the trunk (preset dit_lora: adapters in it; in the demo 80 %)"),
    Row(float("inf"), "adapt all of it (preset three_stages)",
        "adapt parts of the trunk, or all of it (model.dit_trains=all)"),
)  # fmt: skip
BY_LIKENESS = (
    ("photographs", "the published weights as they are, or the least adaptation"),
    ("medical pictures and the like", "the usual stages"),
    ("spectrograms, radar", "a deep adaptation: three_stages, train.plan=deep, less alignment, more epochs"),
)
SCRATCH_EPOCHS = 200  # of the guide's plan B
IN_ALL = "below 5,000 images freeze 3-4 encoder levels and the DiT's trunk, below 20,000 2-3 levels and most of it"


def by_amount(images: int) -> str:
    """The row of the table for so many training images."""
    row = next(row for row in BY_AMOUNT if images < row.below)
    amount = f"below {row.below:,.0f}" if row.below < float("inf") else f"{BY_AMOUNT[-2].below:,.0f} and more"
    return f"{images:,} training images ({amount}); autoencoder: {row.encoder}; generator: {row.dit}"
