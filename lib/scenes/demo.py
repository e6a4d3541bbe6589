"""The streets of the demo, and how long it trains on them: the same for every base, so that runs can be compared.

A recipe adds its network, and a rate that suits it. No heavy imports.
"""

DEMO = {
    "model.weights": "demo",
    "model.image_width_px": 112,
    "model.image_height_px": 84,
    "data.stand_in": True,
    "data.scenes": [
        "linden", "market", "mill", "station", "quarry", "orchard", "foundry", "brewery", "library", "bakery",
    ],
    "data.stand_in_views": 10,
    "data.val_scenes": ["harbour", "chapel", "garden", "viaduct", "college"],
    "data.frames": [3, 3],
    "data.samples_per_epoch": 80,
    "cache.policy": "tokens",  # new samples in every epoch, whatever the machine: the README's numbers
    "train.epochs": 8,
    "train.lr": 1e-3,
    "train.micro_batch": 2,
    "train.global_batch": 2,
}  # fmt: skip

# PIPELINE_SCALE=tiny: all five steps in 45 seconds.
TINY = {
    "data.scenes": ["linden", "market"],
    "data.val_scenes": ["harbour"],
    "data.stand_in_views": 6,
    "data.frames": [2, 2],
    "data.samples_per_epoch": 8,
    "train.epochs": 2,
}
