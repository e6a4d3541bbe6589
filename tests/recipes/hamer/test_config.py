"""Settings that cannot work are refused with their key, before anything is fetched."""

import subprocess
import sys

import pytest

from lib import recipes
from lib.core.config import from_dotted, leaves
from lib.core.errors import Stop
from lib.recipes import hamer

NAN, INFINITE = float("nan"), float("inf")
OWN = {"data.format": "folder"}  # where conventions can be set
# Every setting of this recipe alone -> values that are refused, each with what else must be set to reach the check.
REFUSED = {
    "model.init": ["scratch", ""],
    "model.checkpoint": ["scratch", "weights.bin"],
    "model.mano": ["smplx"],
    "model.crop_px": [0, -256, 100, 224],
    "model.patch_px": [0, 300, 14],
    "model.width": [0, 1279, 640],
    "model.depth": [0, 33],
    "model.heads": [0, 7, 8],
    "model.mlp_ratio": [0, 3],
    "model.drop_path": [-0.1, 1.0, NAN],
    "model.decoder_width": [0, 512],
    "model.decoder_depth": [0, 5],
    "model.decoder_heads": [0, 4],
    "model.decoder_head_width": [0, 32],
    "model.decoder_mlp": [0, 512],
    "model.refinements": [0],
    "model.mean_token": [True],
    "model.focal_px": [0.0, -1.0, NAN, INFINITE],
    "data.format": ["freihnad", ""],
    "data.root": ["hands.npz", "hands.tar"],
    "data.joint_order_2d": ["manno", "0,1,2", "0,0,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20"],
    "data.joint_order_3d": ["", "0,1,x", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21"],
    "data.axes": ["unity"],
    "data.pose_format": ["matrix"],
    "data.left_betas": ["flipped"],
    "data.box_format": ["coco"],
    "data.confidence": ["logits"],
    "data.group_pattern": ["(", "no group"],
    "data.val_share": [0.0, 1.0, -0.1, NAN],
    "data.truth": ["4d"],
    "data.box_factor": [0.4, 11.0, NAN],
    "data.keep_side_px": [63],
    "data.augment_scale": [-0.1, 0.4, 1.0, NAN],
    "data.augment_rotation_deg": [-1.0, 91.0, NAN],
    "data.augment_rotation_share": [-0.1, 1.1, NAN],
    "data.augment_shift": [-0.1, 0.2, NAN],
    "data.augment_colour": [-0.1, 1.1, NAN],
    "data.stand_in_subjects": [1],
    "data.stand_in_hands": [0],
    "data.stand_in_px": [31],
    "loss.keypoints_3d": [-1.0, NAN, INFINITE],
    "loss.keypoints_2d": [-1.0, NAN],
    "loss.global_orient": [-1.0, NAN],
    "loss.hand_pose": [-1.0, NAN],
    "loss.betas": [-1.0, NAN],
    "loss.adversarial": [-1.0, NAN],
    "loss.critic_lr": [-1.0, NAN],
    "loss.shape_prior": [-1.0, NAN],
    "lora.targets.backbone": [["atn"], ["to_kv"], [""]],
    "lora.targets.head": [["qkv"], ["read_outs"]],
    "lora.last_blocks": [-1, 33],
}
ANY = {"data.val_groups", "data.augment", "data.trust_labels", "lora.full_readouts"}  # step 3 knows the groups


def own_settings():
    """Dotted keys of this recipe alone; those of every recipe are tested with lib.core.config."""
    shared = {f"lora.{name}" for name in ("rank", "alpha", "dropout", "full", "peft")}
    return {key for key in leaves(hamer.Config) if key.split(".")[0] in ("model", "data", "loss", "lora")} - shared


def test_every_setting_has_its_bounds_here():
    assert own_settings() == REFUSED.keys() | ANY


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in REFUSED.items() for value in values])
def test_impossible_value_is_refused_with_its_key(key, value):
    with pytest.raises(Stop) as stopped:
        from_dotted(hamer.Config, (OWN if key.startswith("data.") and key != "data.format" else {}) | {key: value})
    assert key in stopped.value.cause + stopped.value.command


@pytest.mark.parametrize(("settings", "message"), [
    ({"model.heads": 7}, "model.width=1280 is not a multiple of model.heads=7"),
    ({"data.format": "freihnad"}, "did you mean 'freihand'"),
    ({"lora.targets.backbone": ["atn"]}, "lora.targets.backbone='atn' is unknown: did you mean 'attn'"),
    ({"lora.targets.backbone": [], "lora.targets.head": []}, "nothing would be trained"),
    ({"lora.targets.backbone": ["patch"], "lora.targets.head": [], "lora.last_blocks": 2}, "nothing would be trained"),
    ({"model.crop_px": 224}, "model.crop_px=224, but the checkpoint of model.init=hamer has 256"),
    (hamer.DEMO | {"model.depth": 5}, "model.depth=5, but the checkpoint of model.init=demo has 4"),
    ({"loss.adversarial": 0.1, "loss.critic_lr": 0.0}, "the critic would never learn"),
    (dict.fromkeys(map("loss.{}".format, hamer.Config().loss.__dict__), 0.0), "all weights of loss.* are 0"),
    ({"data.axes": "opengl"}, "data.axes=opengl is for hands of your own, and data.format is freihand"),
    ({"data.format": "made", "data.root": "hands"}, "data.root='hands' is not used: data.format=made draws its own"),
])  # fmt: skip
def test_impossible_combination_is_named(settings, message):
    with pytest.raises(Stop, match=message):
        from_dotted(hamer.Config, settings)


def test_a_checkpoint_of_ones_own_may_have_any_size():
    from_dotted(
        hamer.Config, {"model.checkpoint": "mine/small.pth", "model.width": 640, "model.heads": 8, "model.crop_px": 128}
    )
    from_dotted(hamer.Config, {"model.init": "vitpose", "model.decoder_depth": 2})  # the whole head is new there


def test_layers_are_chosen_by_the_guides_names():
    chosen = {"lora.targets.backbone": ["qkv", "fc1", "qkv"], "lora.targets.head": ["to_kv", "decpose"]}
    config = from_dotted(hamer.Config, chosen)
    assert (config.adapted_backbone, config.adapted_head) == (["fc1", "qkv"], ["decpose", "to_kv"])
    config = from_dotted(hamer.Config, chosen | {"lora.full_readouts": True})
    assert config.adapted_head == ["to_kv"]  # decpose is trained fully


def test_presets_and_the_demo_compose():
    for preset in hamer.PRESETS.values():
        for scale in ({}, hamer.DEMO, hamer.DEMO | hamer.TINY):
            from_dotted(hamer.Config, preset | scale)


def test_demo_changes_only_what_a_demo_may():
    free = ("model.", "data.", "train.epochs", "train.lr", "train.micro_batch", "train.global_batch")
    assert all(key.startswith(free) for key in hamer.DEMO | hamer.TINY)


def test_package_keeps_the_contract():
    recipes.load("hamer")  # refuses what is missing, misspelt or has other parameters


def test_plan_and_assets_need_no_torch():
    code = (
        "import sys; from lib import recipes; recipe = recipes.load('hamer'); config = recipe.Config(); "
        "recipe.plan(config), recipe.assets(config); assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
