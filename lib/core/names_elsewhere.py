"""What guides and other trainers call a setting or a flag, and which of ours does the same."""

# The first setting that a recipe has is named.
NAMES_ELSEWHERE = {
    "accum_steps": ("train.global_batch",),
    "adaptive_vf": ("loss.adaptive_vf",),
    "alpha": ("lora.alpha",),
    "amp": ("train.precision",),
    "amp_dtype": ("train.precision",),
    "batch": ("train.global_batch",),
    "batch_size": ("train.global_batch",),
    "bf16": ("train.precision",),
    "checkpoint_save_top_k": ("train.keep_best",),
    "checkpoint_steps": ("train.checkpoint_steps",),
    "contrastive_weight": ("loss.contrastive",),
    "cos_margin": ("loss.cosine_margin",),
    "cos_weight": ("loss.cosine_weight",),
    "data_root": ("data.root",),
    "dataroot": ("data.root",),
    "disc_start": ("loss.critic_start_share",),
    "disc_weight": ("loss.critic",),
    "distmat_margin": ("loss.distance_margin",),
    "distmat_weight": ("loss.distance_weight",),
    "dropout": ("lora.dropout",),
    "epochs": ("train.epochs",),
    "fp16": ("train.precision",),
    "freeze_backbone": ("model.dit_trains", "lora.targets"),
    "freeze_layers": ("model.freeze_encoder_layers", "lora.strategy", "lora.last_blocks", "train.stages"),
    "freeze_llm": ("train.stages",),
    "grad_accum": ("train.global_batch",),
    "grad_clip": ("train.clip",),
    "grad_clip_val": ("train.clip",),
    "gradient_accumulation": ("train.global_batch",),
    "gradient_accumulation_steps": ("train.global_batch",),
    "gradient_clip": ("train.clip",),
    "gradient_clip_val": ("train.clip",),
    "img_size": ("model.image_width_px", "model.image_px", "model.crop_px", "data.width_px"),
    "kl_weight": ("loss.kl",),
    "learning_rate": ("train.lr",),
    "llm_path": ("model.llm",),
    "log_steps": ("train.log_seconds",),
    "lora_alpha": ("lora.alpha",),
    "lora_dropout": ("lora.dropout",),
    "lora_r": ("lora.rank",),
    "loss_cls": ("loss.cls",),
    "loss_dir": ("loss.dir",),
    "loss_pts": ("loss.pts",),
    "lr": ("train.lr",),
    "lr_decoder": ("train.lr",),
    "lr_qformer": ("train.lr_share_qformer",),
    "lr_queries": ("train.lr",),
    "max_epochs": ("train.epochs",),
    "max_img_per_gpu": ("train.micro_batch",),
    "num_epochs": ("train.epochs",),
    "num_workers": ("train.workers",),
    "patience": ("train.patience_evaluations",),
    "pretrained_model_path": ("model.weights", "model.checkpoint"),
    "pretrained_path": ("model.weights", "model.checkpoint"),
    "qformer_pretrained": ("model.qformer",),
    "rank": ("lora.rank",),
    "save_interval": ("train.checkpoint_epochs",),
    "save_top_k": ("train.keep_best",),
    "seed": ("train.seed",),
    "target_modules": ("lora.targets", "lora.strategy"),
    "torch_compile": ("train.compile",),
    "use_vf": ("model.vf",),
    "use_vfm": ("model.vf",),
    "vae_encoder": ("model.weights",),
    "vf_weight": ("loss.align_vf",),
    "warmup_epochs": ("train.warmup_ratio",),
    "warmup_steps": ("train.warmup_ratio",),
    "weight_decay": ("train.weight_decay",),
    "window_mask": ("data.region_masks",),
    "window_weight": ("loss.region_weight",),
    "workers": ("train.workers",),
}

# Flags, and what needs no setting here.
FLAGS_ELSEWHERE = {
    "detect_anomaly": "step4_train.py --detect-anomaly",
    "devices": "step4_train.py --processes N",
    "double_z": "nothing: the encoder gives mean and variance, as published",
    "img_folder": "step5_evaluate.py --predict FOLDER",
    "logdir": "--root DIR and --run NAME",
    "lora_weights": "step5_evaluate.py --checkpoint best, last or step-N",
    "nproc_per_node": "step4_train.py --processes N",
    "out_folder": "step5_evaluate.py --predict FOLDER --out DIR",
    "output_dir": "--root DIR and --run NAME",
    "pixelloss_weight": "nothing: the pixel loss counts 1, and the other weights are relative to it",
    "resume_checkpoint_path": "a run goes on by itself; another run's checkpoint: step4_train.py --checkpoint FOLDER",
    "reverse_proj": "nothing: latents are projected to the width of the features, as published",
    "save_mesh": "nothing: --predict writes every mesh",
    "save_path": "--root DIR and --run NAME",
    "side_view": "nothing: --predict draws every hand from the side as well",
}


def known_elsewhere(key: str, known: dict[str, str]) -> str:
    """'here that is …' for a name that guides use, however it is spelt (TRAIN.GRAD_CLIP_VAL, --freeze-layers), or "".

    known: the recipe's own settings by dotted key.
    """
    name = key.rpartition(".")[2].lstrip("-").replace("-", "_").lower()
    if name in FLAGS_ELSEWHERE:
        return f"here that is {FLAGS_ELSEWHERE[name]}"
    ours = [one for one in NAMES_ELSEWHERE.get(name, ()) if one in known or any(k.startswith(f"{one}.") for k in known)]
    return f"here that is {ours[0]}" if ours else ""
