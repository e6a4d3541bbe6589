"""The presets, the small demo and what a good run of each shows. Plain tables, no imports."""

# The guide: queries and decoder 1e-4, Q-Former 1e-5, 12 epochs of trainval, 16 frames a step, 500 of 21 098 steps of
# warm-up. Its clip of 0.1 belonged to a loss 20 times smaller; with MapTR's sums it is 35.
GUIDE = {
    "train.lr": 1e-4,
    "train.lr_share_qformer": 0.1,
    "train.weight_decay": 0.01,
    "train.epochs": 12,
    "train.global_batch": 16,
    "train.warmup_ratio": 0.024,
}
STAGE3 = GUIDE | {
    "train.stages": ["stage2", "stage3"],
    "train.stage3_epochs": 3,
    "lora.rank": 32,
    "lora.alpha": 64.0,
    "lora.dropout": 0.05,
}
PRESETS = {
    "stage2": GUIDE,
    "stage2_scratch_lr": GUIDE | {"train.lr": 4e-4, "train.lr_share_qformer": 0.25, "train.epochs": 24},
    "stage3_lora": STAGE3 | {"train.stage3": "lora", "train.lr_llm": 1e-4},
    "stage3_full": STAGE3 | {"train.stage3": "full", "train.lr_llm": 1e-6},
    "no_llm": GUIDE | {"model.llm": "none", "model.scene_interaction": True},
}

# A network of 2 million parameters with every part of the large one, on procedural roads; frames of the last location
# are held out.
DEMO = {
    "model.encoder": "demo", "model.qformer": "demo", "model.llm": "demo", "model.tokens_per_view": 16,
    "model.prompt": "Map the road.",
    "model.instances": 20, "model.points": 12, "model.decoder_width": 96, "model.decoder_layers": 3,
    "data.stand_in": True, "data.width_px": 200, "data.height_px": 112,
    "train.epochs": 6, "train.lr": 2e-3, "train.micro_batch": 4, "train.global_batch": 4,
}  # fmt: skip

# PIPELINE_SCALE=tiny: all five steps in 45 seconds.
TINY = {
    "data.stand_in_scenes": 6,
    "data.stand_in_val_scenes": 2,
    "data.stand_in_frames": 2,
    "data.overlays": 1,
    "train.epochs": 1,
}

EXPECTED = {
    "stage2": "demo: mAP about 0.35 on unseen roads, where a straight road scores 0.10 and the pictures of another "
    "scene lead to 0.04; crossings are right to 1.5 m only. nuScenes: nothing published for this network, MapTR's "
    "ResNet-50 reaches 0.50 on the official split and such methods about half of that on a geographic one",
    "stage2_scratch_lr": "faster than stage2: what is new is trained at rates that MapTR's head was trained at",
    "stage3_lora": "not below stage2; whether the language model's adapters add anything is what the comparison with "
    "no_llm says",
    "stage3_full": "the language model in fp32 with gradients and moments, 170 GB for Vicuna-7B: several large cards",
    "no_llm": "the ablation: what is left when map queries look at the scene tokens without a language model; demo: "
    "mAP about 0.30",
}
