"""Strict loading of the published layout, at a small size: what is missing, renamed or unknown must stop the run."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib import adapters
from lib.config import from_dotted
from lib.errors import Stop
from lib.recipes import Stage
from lib.recipes.vavae_microdoppler import assemble, schedule, score_batch, training
from lib.recipes.vavae_microdoppler.autoencoder import build_autoencoder, to_published
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.critic import PatchCritic
from lib.recipes.vavae_microdoppler.lpips import Perceptual
from lib.recipes.vavae_microdoppler.vision import Vision, to_timm

SMALL = {
    "model.image_px": 32, "model.channels": 8, "model.multipliers": [1, 2, 2], "model.attention": [2], "model.blocks": 1,
    "model.norm_groups": 4, "model.latent_channels": 4, "model.vf_width": 8, "model.vf_depth": 1, "model.vf_heads": 2, "model.lpips_widths": [4, 4, 4, 4, 4],
    "model.critic_width": 4,
    "model.critic_layers": 1,
}  # fmt: skip
ALIGN = Stage("align", 100)


def config(**settings) -> Config:
    return from_dotted(Config, SMALL | {name.replace("__", "."): value for name, value in settings.items()})


def published(cfg: Config) -> dict[str, torch.Tensor]:
    """A file in the published layout: 5 parts and the constant."""
    torch.manual_seed(0)
    state = to_published(build_autoencoder(cfg.model.autoencoder)) | {
        "linear_proj.weight": torch.randn(8, 4, 1, 1),
        "loss.logvar": torch.zeros(()),
    }
    parts = {
        "foundation_model.model.": to_timm(Vision(cfg.model.vision_size)),
        "loss.perceptual_loss.": Perceptual((4, 4, 4, 4, 4)).state_dict(),
        "loss.discriminator.": PatchCritic(4, 1).state_dict(),
    }
    return state | {prefix + name: tensor.clone() for prefix, part in parts.items() for name, tensor in part.items()}


def build(cfg: Config, path: Path, stage: Stage = ALIGN):
    return assemble.build(cfg, stage, {"base": path})


@pytest.fixture
def file(tmp_path) -> Path:
    save_file(published(config()), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def test_every_part_is_loaded_as_it_stands_in_the_file(file):
    parts, wanted = build(config(), file), published(config())
    assert torch.equal(to_published(parts.modules["autoencoder"])["decoder.mid.attn_1.q.weight"], wanted["decoder.mid.attn_1.q.weight"])
    assert torch.equal(parts.modules["projection"].weight, wanted["linear_proj.weight"])
    assert torch.equal(parts.modules["critic"].main[0].weight, wanted["loss.discriminator.main.0.weight"])
    assert torch.equal(parts.modules["perceptual"].net.slice1[0].weight, wanted["loss.perceptual_loss.net.slice1.0.weight"])
    assert torch.equal(parts.modules["vision"].model.embeddings.cls_token, wanted["foundation_model.model.cls_token"])
    assert not any(module.training for module in parts.modules.values())


def test_a_lightning_checkpoint_is_the_same_base(file, tmp_path):
    pickled = tmp_path / "whole.ckpt"
    torch.save({"state_dict": published(config()), "epoch": 49, "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}]}, pickled)
    assert build(config(), pickled).base == build(config(), file).base


def test_what_step_2_fetched_is_converted_once(tmp_path):
    state = published(config())
    torch.save({"state_dict": state}, tmp_path / "whole.pt")
    (tmp_path / "sources.json").write_text("{}")
    first = build(config(), tmp_path).base
    converted = tmp_path / "whole.safetensors"
    stamp = converted.stat().st_mtime_ns
    assert build(config(), tmp_path).base == first and converted.stat().st_mtime_ns == stamp


def test_a_persons_own_folder_is_not_written_into(tmp_path):
    torch.save(published(config()), tmp_path / "mine.pt")
    build(config(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.pt"]


def test_names_behind_module_are_the_same_base(file, tmp_path):
    save_file({f"module.{name}": tensor for name, tensor in published(config()).items()}, tmp_path / "prefixed.safetensors")
    assert build(config(), tmp_path / "prefixed.safetensors").base == build(config(), file).base


def test_inventory_counts_every_part(file):
    found = assemble.inventory(assemble.read_groups(file))
    assert found["projection"] == (1, 32) and found["constant"] == (1, 1) and found["critic"][0] == 10 and found["perceptual"][0] == 33


def without(tmp_path: Path, *starts: str) -> Path:
    path = tmp_path / "part.safetensors"
    save_file({name: tensor for name, tensor in published(config()).items() if not name.startswith(starts)}, path)
    return path


def test_a_missing_projection_needs_an_explicit_option(tmp_path):
    path = without(tmp_path, "linear_proj.")
    with pytest.raises(Stop, match="projection") as stop:
        build(config(), path)
    assert "model.fresh_projection=true" in stop.value.command
    again = [build(config(model__fresh_projection=True), path).modules["projection"].weight for _ in range(2)]
    assert torch.equal(*again) and again[0].abs().max() > 0


def test_a_missing_tensor_of_the_autoencoder_stops(tmp_path):
    with pytest.raises(Stop, match="1 missing.*attentions"):
        build(config(), without(tmp_path, "decoder.up.2.attn.1.q.bias"))


def test_an_unknown_tensor_stops(tmp_path):
    save_file(published(config()) | {"time_embed.weight": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(Stop, match="1 tensors belong to no part.*time_embed"):
        build(config(), tmp_path / "odd.safetensors")


def test_a_file_of_the_autoencoder_alone_trains_without_alignment(tmp_path):
    path = without(tmp_path, "linear_proj.", "foundation_model.", "loss.")
    parts = build(config(model__vf="none", loss__perceptual=0.0), path)
    assert set(parts.modules) == {"autoencoder", "critic", "statistics"} and parts.prefix is None


def batch(parts) -> dict:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    found = {"image": image, "label": torch.tensor([0, 1]), "sample_id": ["a", "b"], "group": ["u/1", "v/1"]}
    return found | ({"feature": parts.modules["vision"](image).detach()} if "vision" in parts.modules else {})


def opened(parts):
    for module in parts.modules.values():
        module.requires_grad_(False)
    adapters.attach(parts)
    adapters.set_mode(parts, training=True)
    return adapters.trainable(parts)


def gradients(cfg: Config, stage: Stage, parts, which: int, step: int = 99) -> dict[str, torch.Tensor]:
    tensors = opened(parts)
    objective = training.objectives(cfg, stage)[which]
    mine = {name for name in tensors for group in objective.groups if __import__("re").fullmatch(group.tensors, name)}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name in mine)
    torch.manual_seed(0)
    loss, numbers = objective.loss(parts, batch(parts), step)
    loss.backward()
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in numbers.values())
    return {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}


def test_the_two_losses_reach_their_own_networks_only(file):
    cfg = config()
    one = gradients(cfg, ALIGN, build(cfg, file), 0)
    other = gradients(cfg, ALIGN, build(cfg, file), 1)
    assert {name.split(".")[0] for name in one} == {"autoencoder", "projection"} and {name.split(".")[0] for name in other} == {"critic"}
    assert all(g.isfinite().all() for g in (*one.values(), *other.values()))


def test_the_drift_holds_the_critics_logits(file):
    cfg = config()
    found = {}
    for drift in (0.0, cfg.loss.critic_drift):
        parts = build(config(loss__critic_drift=drift), file)
        torch.nn.init.zeros_(parts.modules["critic"].main[-1].weight)
        torch.nn.init.constant_(parts.modules["critic"].main[-1].bias, -3.0)
        sure = batch(parts) | {"image": torch.zeros(2, 3, 32, 32)}
        opened(parts)
        loss, _ = training.critic_objective(config(loss__critic_drift=drift))(parts, sure, 0)
        found[drift] = loss
    # -3 for both: the hinge is (relu(1 + 3) + relu(1 - 3)) / 2 = 2, the drift 1e-3 * 9
    assert float(found[0.0].detach()) == pytest.approx(2.0) and float(found[1e-3].detach()) == pytest.approx(2.009)


def test_frozen_levels_get_no_gradient(file):
    cfg = config(model__freeze_encoder_layers=2)
    names = set(gradients(cfg, ALIGN, build(cfg, file), 0))
    assert not [
        n
        for n in names
        if n.startswith(("autoencoder.encoder.conv_in", "autoencoder.encoder.down_blocks.0", "autoencoder.encoder.down_blocks.1"))
    ]
    assert any(n.startswith("autoencoder.encoder.down_blocks.2") for n in names)


def test_decoder_only_leaves_the_latent_space_untouched(tmp_path):
    cfg = config(model__vf="none", train__stages=["decoder"])
    path = without(tmp_path, "linear_proj.", "foundation_model.")
    stage = Stage("decoder", 10)
    names = set(gradients(cfg, stage, build(cfg, path, stage), 0))
    assert names and all(n.startswith(("autoencoder.decoder.", "autoencoder.post_quant_conv.")) for n in names)


def test_recomputed_activations_give_the_same_gradients(file):
    plain = gradients(config(), ALIGN, build(config(), file), 0)
    cfg = config(train__checkpointing=True)
    again = gradients(cfg, ALIGN, build(cfg, file), 0)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7)


def test_scores_are_the_plain_definitions(file):
    parts = build(config(), file)
    found = batch(parts)
    with torch.no_grad():
        rows = score_batch(config(), parts, found)
        trivial = score_batch(config(), None, found)
        recon = parts.modules["autoencoder"].decode(parts.modules["autoencoder"].encode(found["image"]).latent_dist.mode()).sample
    one, other = ((x.clamp(-1, 1) + 1) / 2 for x in (found["image"], recon))
    assert rows[1].numbers["mse"] == pytest.approx(float(((one - other)[1] ** 2).mean()), rel=1e-4)
    assert rows[1].numbers["psnr"] == pytest.approx(-10 * torch.log10(((one - other)[1] ** 2).mean()).item(), abs=1e-3)
    mean = one[0].mean((1, 2), keepdim=True)
    assert trivial[0].numbers["mse"] == pytest.approx(float(((one[0] - mean) ** 2).mean()), rel=1e-4)
    assert [row.sample_id for row in rows] == ["a", "b"] and rows[0].arrays["recon"].shape == (3, 32, 32)


def test_black_images_are_scored_and_trained_without_nan(file):
    cfg, parts = config(), build(config(), file)
    black = batch(parts) | {"image": torch.full((2, 3, 32, 32), -1.0)}
    with torch.no_grad():
        rows = score_batch(cfg, parts, black)
    assert all(math.isfinite(value) for row in rows for value in row.numbers.values())
    opened(parts)
    loss, _ = training.objectives(cfg, ALIGN)[0].loss(parts, black, 99)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in parts.modules["autoencoder"].parameters())


def test_statistics_of_the_latents_are_those_of_the_training_batches(file):
    cfg, parts = config(), build(config(), file)
    opened(parts)
    objective = training.objectives(cfg, ALIGN)[0]
    torch.manual_seed(0)
    objective.loss(parts, batch(parts), 0)
    torch.manual_seed(0)
    _, sample, _ = training.forward(parts, batch(parts)["image"])
    found = parts.modules["statistics"].statistics()
    torch.testing.assert_close(found.mean, sample.detach().mean((0, 2, 3), keepdim=True))
    torch.testing.assert_close(found.std, sample.detach().std((0, 2, 3), keepdim=True, correction=0))


def test_stages_hand_over_and_keep_the_guides_proportions():
    from lib.recipes import Manifest, Record

    cfg = config(train__epochs=30, train__global_batch=16)
    records = [Record(f"x/{i}", "x/1", "", "", split="train") for i in range(160)]
    made = schedule.stages(cfg, Manifest(records, Path()))
    assert [(s.name, s.steps, s.init_from) for s in made] == [
        ("align", 300, "base"),
        ("reconstruct", 150, "align"),
        ("margin", 100, "reconstruct"),
    ]


def test_critic_learns_before_it_is_listened_to_and_goes_on_in_later_stages():
    listens, learns = schedule.critic_steps(config(), Stage("align", 1000))
    assert (listens, learns) == (170, 139)
    assert schedule.critic_steps(config(), Stage("reconstruct", 500, "align")) == (0, 0)


def test_margins_and_shares_belong_to_their_stages():
    found = {name: training.loss_weights(config(), Stage(name, 10)) for name in ("align", "reconstruct", "margin", "single")}
    assert [(w.alignment, w.distance_margin, w.cosine_margin) for w in found.values()] == [
        (0.5, 0, 0),
        (0.1, 0, 0),
        (0.1, 0.25, 0.5),
        (0.1, 0.25, 0.5),
    ]


def test_the_projection_stands_still_in_the_last_stage():
    rates = {
        name: {g.name: g.lr for g in training.objectives(config(), Stage(name, 10, "x"))[0].groups} for name in ("reconstruct", "margin")
    }
    assert rates["reconstruct"] == {"autoencoder": pytest.approx(5e-5), "projection": pytest.approx(5e-5)}
    assert rates["margin"] == {"autoencoder": pytest.approx(2e-5), "projection": 0.0}
