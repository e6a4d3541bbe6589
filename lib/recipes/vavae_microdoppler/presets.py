"""The presets, the small demo and what a good run of each shows. Plain tables, no imports."""

# A generated set is scored as a whole: more selection samples, seldom. Averages: the published decay; lib warms it up.
DIT = {
    "train.stages": ["dit"], "train.epochs": 12, "train.dit_share": 16.0, "train.ema": 0.9999, "train.global_batch": 64,
    "train.micro_batch": 32, "train.evaluate_epochs": 4.0, "train.weight_decay": 0.01, "train.warmup_ratio": 0.02,
    "train.min_lr_ratio": 0.5, "eval.select_samples": 64, "eval.batch": 32, "eval.figures": 24,
}  # fmt: skip

PRESETS = {
    "three_stages": {"train.stages": ["align", "reconstruct", "margin"]},
    "single_stage": {"train.stages": ["single"], "train.epochs": 50},
    "decoder_only": {"train.stages": ["decoder"], "model.vf": "none", "train.epochs": 20},
    "frozen_encoder": {
        "train.stages": ["single"], "train.epochs": 25, "train.lr": 1e-5,
        "model.freeze_encoder_layers": 3, "loss.distance_weight": 0.5, "loss.cosine_weight": 0.5,
    },
    "dit_scratch_s": DIT | {"model.dit": "S"},
    "dit_frozen": DIT | {"model.dit": "XL", "model.dit_weights": "published", "model.dit_trains": "table"},
    "dit_lora": DIT | {"model.dit": "XL", "model.dit_weights": "published", "model.dit_trains": "lora"},
}  # fmt: skip

# The published structure with 1.1 million parameters, one level less (f8) and images of 64 px, on simulated walkers.
# The critic has one layer, so that it judges 30 x 30 patches of an image as the published one does. It has learnt for
# minutes where the published one learnt for days: at its weight of 0.5 it costs as much PSNR as the adaptation gains
# (+0.8 dB instead of +2.1), so it counts a fifth.
DEMO = {
    "model.weights": "demo", "model.teachers": "demo", "model.image_px": 64, "model.channels": 16,
    "model.multipliers": [1, 2, 4, 4], "model.blocks": 1, "model.attention": [3], "model.norm_groups": 4,
    "model.vf_width": 96, "model.vf_depth": 4, "model.vf_heads": 4, "model.lpips_widths": [8, 16, 32, 48, 48],
    "model.critic_width": 16, "model.critic_layers": 1,
    "model.dit_width": 128, "model.dit_depth": 6, "model.dit_heads": 4,
    "data.stand_in": True, "data.stand_in_users": 6, "data.stand_in_recordings": 12, "data.stand_in_windows": 3,
    "data.stand_in_px": 128, "data.stand_in_difference": 0.7,
    "train.epochs": 8, "train.lr": 2.5e-4, "train.global_batch": 8, "train.micro_batch": 8, "loss.critic": 0.1,
    "train.dit_lr_share": 4.0, "train.min_lr_ratio": 0.4,
}  # fmt: skip

# PIPELINE_SCALE=tiny: all five steps in 45 seconds.
TINY = {
    "model.image_px": 32, "data.stand_in_users": 3, "data.stand_in_recordings": 3, "data.stand_in_windows": 2,
    "train.epochs": 3, "train.global_batch": 4, "train.micro_batch": 4,
}  # fmt: skip

EXPECTED = {
    "three_stages": "held-out PSNR at least 2 dB above the untouched base, alignment cosine not below the base's",
    "single_stage": "the published one-stage recipe: PSNR near three_stages', margins from the start",
    "decoder_only": "PSNR above the base with the published latent space untouched; latents_stats.pt stays valid",
    "frozen_encoder": "the guide's second half: first levels frozen, learning rate 1e-5; a smaller gain, little risk",
    "dit_scratch_s": "generated spectrograms that a judge of real ones gives to the right user in 80 %, "
    "no collapse, no copies",
    "dit_frozen": "the published XL with new class table, modulations and last layer: in the demo a judge gives two "
    "images of three to the right user (chance: one of six)",
    "dit_lora": "the published XL with adapters: in the demo a judge gives four images of five to the right user, as "
    "after dit_scratch_s",
}
