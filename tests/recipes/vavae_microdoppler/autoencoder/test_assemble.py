"""Strict loading of the published layout, at a small size: what is missing, renamed or unknown must stop the run."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib.core.config import from_dotted
from lib.core.errors import Stop
from lib.core.records import Manifest, Record, Stage
from lib.network import adapters, scoring
from lib.recipes.vavae_microdoppler import schedule
from lib.recipes.vavae_microdoppler.autoencoder import assemble, objectives
from lib.recipes.vavae_microdoppler.autoencoder.critic import PatchCritic
from lib.recipes.vavae_microdoppler.autoencoder.decision import decide
from lib.recipes.vavae_microdoppler.autoencoder.evaluate import score_batch
from lib.recipes.vavae_microdoppler.autoencoder.model import build_autoencoder, to_published
from lib.recipes.vavae_microdoppler.autoencoder.published import inventory, read_groups
from lib.recipes.vavae_microdoppler.autoencoder.vision import Vision, to_timm
from lib.recipes.vavae_microdoppler.base import base
from lib.recipes.vavae_microdoppler.config import Config
from lib.recipes.vavae_microdoppler.lpips import Perceptual

SMALL = {
    "model.weights": "mine/base.safetensors", "model.image_px": 32, "model.channels": 8, "model.multipliers": [1, 2, 2],
    "model.attention": [2],
    "model.blocks": 1, "model.norm_groups": 4, "model.latent_channels": 4,
    "model.vf_width": 8, "model.vf_depth": 1, "model.vf_heads": 2,
    "model.lpips_widths": [4, 4, 4, 4, 4], "model.critic_width": 4, "model.critic_layers": 1,
}  # fmt: skip
ALIGN = Stage("align", 100, kind="autoencoder")


def configured(**settings) -> Config:
    return from_dotted(Config, SMALL | {name.replace("__", "."): value for name, value in settings.items()})


def published(config: Config) -> dict[str, torch.Tensor]:
    """A file in the published layout: 5 parts and the constant."""
    torch.manual_seed(0)
    state = to_published(build_autoencoder(config.model.autoencoder))
    state |= {"linear_proj.weight": torch.randn(8, 4, 1, 1), "loss.logvar": torch.zeros(())}
    parts = {
        "foundation_model.model.": to_timm(Vision(config.model.vision_size)),
        "loss.perceptual_loss.": Perceptual((4, 4, 4, 4, 4)).state_dict(),
        "loss.discriminator.": PatchCritic(4, 1).state_dict(),
    }
    return state | {prefix + name: tensor.clone() for prefix, part in parts.items() for name, tensor in part.items()}


def build(config: Config, path: Path, stage: Stage = ALIGN):
    named = replace(config, model=replace(config.model, weights=str(path)))
    return assemble.build(named, stage, {"base": path.parent})


@pytest.fixture
def file(tmp_path) -> Path:
    save_file(published(configured()), tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def test_every_part_is_loaded_as_it_stands_in_the_file(file):
    modules, wanted = build(configured(), file).modules, published(configured())
    found = {
        "decoder.mid.attn_1.q.weight": to_published(modules["autoencoder"])["decoder.mid.attn_1.q.weight"],
        "linear_proj.weight": modules["projection"].weight,
        "loss.discriminator.main.0.weight": modules["critic"].main[0].weight,
        "loss.perceptual_loss.net.slice1.0.weight": modules["perceptual"].net.slice1[0].weight,
        "foundation_model.model.cls_token": modules["vision"].model.embeddings.cls_token,
    }
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name
    assert not any(module.training for module in modules.values())


def test_a_lightning_checkpoint_is_the_same_base(file, tmp_path):
    pickled, moments = tmp_path / "whole.ckpt", [{"state": {0: {"exp_avg": torch.zeros(3)}}}]
    torch.save({"state_dict": published(configured()), "epoch": 49, "optimizer_states": moments}, pickled)
    assert build(configured(), pickled).base == build(configured(), file).base


def test_what_step_2_fetched_is_converted_once(tmp_path):
    state = published(configured())
    torch.save({"state_dict": state}, tmp_path / "whole.pt")
    (tmp_path / "sources.json").write_text("{}")
    first = build(configured(), tmp_path / "whole.pt").base
    converted = tmp_path / "whole.safetensors"
    stamp = converted.stat().st_mtime_ns
    assert build(configured(), tmp_path / "whole.pt").base == first and converted.stat().st_mtime_ns == stamp


def test_a_persons_own_folder_is_not_written_into(tmp_path):
    torch.save(published(configured()), tmp_path / "mine.pt")
    build(configured(), tmp_path / "mine.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.pt"]


def test_names_behind_module_are_the_same_base(file, tmp_path):
    prefixed = {f"module.{name}": tensor for name, tensor in published(configured()).items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    assert build(configured(), tmp_path / "prefixed.safetensors").base == build(configured(), file).base


def test_inventory_counts_every_part(file):
    found = read_groups_of(file)
    assert (found["projection"], found["constant"]) == ((1, 32), (1, 1))
    assert (found["critic"][0], found["perceptual"][0]) == (10, 33)


def read_groups_of(file: Path) -> dict[str, tuple[int, int]]:
    return inventory(read_groups([file]))


def without(tmp_path: Path, *starts: str) -> Path:
    path = tmp_path / "part.safetensors"
    save_file({name: tensor for name, tensor in published(configured()).items() if not name.startswith(starts)}, path)
    return path


def test_a_missing_projection_needs_an_explicit_option(tmp_path):
    path = without(tmp_path, "linear_proj.")
    with pytest.raises(Stop, match="projection") as stop:
        build(configured(), path)
    assert "model.fresh_projection=true" in stop.value.command
    again = [build(configured(model__fresh_projection=True), path).modules["projection"].weight for _ in range(2)]
    assert torch.equal(*again) and again[0].abs().max() > 0


def test_a_missing_tensor_of_the_autoencoder_stops(tmp_path):
    with pytest.raises(Stop, match=r"1 missing.*attentions"):
        build(configured(), without(tmp_path, "decoder.up.2.attn.1.q.bias"))


def test_an_unknown_tensor_stops(tmp_path):
    save_file(published(configured()) | {"time_embed.weight": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(Stop, match=r"1 tensors belong to no part.*time_embed"):
        build(configured(), tmp_path / "odd.safetensors")


def test_a_file_of_the_autoencoder_alone_trains_without_alignment(tmp_path):
    path = without(tmp_path, "linear_proj.", "foundation_model.", "loss.")
    parts = build(configured(model__vf="none", loss__perceptual=0.0), path)
    assert set(parts.modules) == {"autoencoder", "critic", "statistics"} and parts.frozen_features is None


# ---------------------------------------------------------------------------------------------- which file


def neighbour(folder: Path) -> Path:
    """Another whole base, whose name sorts before the one that is meant."""
    other = {
        name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in published(configured()).items()
    }
    save_file(other, folder / "a.safetensors")
    return folder / "a.safetensors"


def test_the_named_file_alone_is_opened_and_recorded(file):
    first = build(configured(), file).base
    assert build(configured(), neighbour(file.parent)).base != first and build(configured(), file).base == first
    named = base(configured(model__weights=str(file)))
    assert (named.source, list(named.files)) == (str(file.parent), ["base.safetensors"])


def folder_base(folder: Path) -> str:
    config = configured(model__weights=str(folder))
    return assemble.build(config, ALIGN, {"base": folder}).base


def test_a_folder_may_hold_one_base_in_parts_but_not_two(file):
    first = build(configured(), file).base
    state = published(configured())
    for part, keep in (
        ("one", lambda name: name.startswith("loss.")),
        ("two", lambda name: not name.startswith("loss.")),
    ):
        save_file({name: tensor for name, tensor in state.items() if keep(name)}, file.parent / f"{part}.safetensors")
    file.unlink()
    assert folder_base(file.parent) == first
    neighbour(file.parent)
    with pytest.raises(Stop, match=r"a\.safetensors and one\.safetensors .* both hold .*two networks"):
        folder_base(file.parent)


def test_of_an_export_the_whole_file_is_taken(file):
    first = build(configured(), file).base
    file.rename(file.parent / "vavae_encoder_for_dit.safetensors")
    neighbour(file.parent).rename(file.parent / "vavae_published.safetensors")
    assert folder_base(file.parent) == first
    found = base(configured(model__weights=str(file.parent)))
    assert list(found.files) == ["vavae_encoder_for_dit.safetensors"]


def test_a_folder_that_lies_elsewhere_now_is_read_there(file, tmp_path):
    config = configured(model__weights="/gone/merged")
    assert assemble.build(config, ALIGN, {"base": file.parent}).base == build(configured(), file).base


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(Stop, match="holds no file of weights") as stop:
        base(configured(model__weights=str(tmp_path)))
    assert "model.weights=" in stop.value.command


# ---------------------------------------------------------------------------------------------- from scratch


def scratch(file: Path, **settings):
    config = configured(model__weights="scratch", model__teachers=str(file), **settings)
    return config, assemble.build(config, ALIGN, {"base": file.parent})


def test_from_scratch_only_the_frozen_networks_come_from_the_file(file):
    config, parts = scratch(file)
    modules, wanted = parts.modules, published(configured())
    assert torch.equal(modules["vision"].model.embeddings.cls_token, wanted["foundation_model.model.cls_token"])
    first = modules["perceptual"].net.slice1[0].weight
    assert torch.equal(first, wanted["loss.perceptual_loss.net.slice1.0.weight"])
    for name, tensor in {
        "decoder.conv_in.weight": to_published(modules["autoencoder"])["decoder.conv_in.weight"],
        "linear_proj.weight": modules["projection"].weight,
        "loss.discriminator.main.0.weight": modules["critic"].main[0].weight,
    }.items():
        assert tensor.shape == wanted[name].shape and not torch.equal(tensor, wanted[name]), name
    assert assemble.comparison(config, ALIGN) == "random_init" and assemble.comparison(configured(), ALIGN) == "base"


def test_a_start_from_scratch_is_the_seeds(file):
    one, again, other = (scratch(file, train__seed=seed)[1] for seed in (1, 1, 2))
    states = [parts.modules["autoencoder"].state_dict() for parts in (one, again, other)]
    assert one.base == again.base != other.base
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["encoder.conv_in.weight"], states[2]["encoder.conv_in.weight"])


def test_from_scratch_everything_is_aligned_and_trained(file):
    config, parts = scratch(file)
    names = set(gradients(config, ALIGN, parts, 0))
    assert {name.split(".")[0] for name in names} == {"autoencoder", "projection"}
    assert decide(config, lambda: pytest.fail("nothing to measure")) == {"train.plan": "deep"}


def batch(parts) -> dict:
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    found = {
        "image": image,
        "label": torch.tensor([0, 1]),
        "sample_id": ["a", "b"],
        "group": ["u/1", "v/1"],
        "user": ["u", "v"],
        scoring.SEEDS: [0, 1],
    }
    return found | ({"feature": parts.modules["vision"](image).detach()} if "vision" in parts.modules else {})


def opened(parts):
    for module in parts.modules.values():
        module.requires_grad_(False)
    adapters.attach(parts)
    adapters.set_mode(parts, training=True)
    return adapters.trainable(parts)


def gradients(config: Config, stage: Stage, parts, which: int, step: int = 99) -> dict[str, torch.Tensor]:
    tensors = opened(parts)
    objective = objectives.objectives(config, stage)[which]
    mine = {name for name in tensors for group in objective.groups if re.fullmatch(group.tensors, name)}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name in mine)
    torch.manual_seed(0)
    loss, numbers = objective.loss(parts, batch(parts), step)
    loss.backward()
    assert all(torch.isfinite(torch.as_tensor(value)).all() for value in numbers.values())
    return {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}


def test_the_two_losses_reach_their_own_networks_only(file):
    config = configured()
    one = gradients(config, ALIGN, build(config, file), 0)
    other = gradients(config, ALIGN, build(config, file), 1)
    reached = [{name.split(".")[0] for name in gradient} for gradient in (one, other)]
    assert reached == [{"autoencoder", "projection"}, {"critic"}]
    assert all(g.isfinite().all() for g in (*one.values(), *other.values()))


def test_the_drift_holds_the_critics_logits(file):
    config = configured()
    found = {}
    for drift in (0.0, config.loss.critic_drift):
        parts = build(configured(loss__critic_drift=drift), file)
        torch.nn.init.zeros_(parts.modules["critic"].main[-1].weight)
        torch.nn.init.constant_(parts.modules["critic"].main[-1].bias, -3.0)
        sure = batch(parts) | {"image": torch.zeros(2, 3, 32, 32)}
        opened(parts)
        loss, _ = objectives.critic_loss(configured(loss__critic_drift=drift))(parts, sure, 0)
        found[drift] = loss
    # -3 for both: the hinge is (relu(1 + 3) + relu(1 - 3)) / 2 = 2, the drift 1e-3 * 9
    assert float(found[0.0].detach()) == pytest.approx(2.0) and float(found[1e-3].detach()) == pytest.approx(2.009)


def test_frozen_levels_get_no_gradient(file):
    config = configured(model__freeze_encoder_layers=2)
    names = set(gradients(config, ALIGN, build(config, file), 0))
    frozen = tuple(f"autoencoder.encoder.{layer}" for layer in ("conv_in", "down_blocks.0", "down_blocks.1"))
    assert not [name for name in names if name.startswith(frozen)]
    assert any(name.startswith("autoencoder.encoder.down_blocks.2") for name in names)


def test_decoder_only_leaves_the_latent_space_untouched(tmp_path):
    config = configured(model__vf="none", train__stages=["decoder"])
    path = without(tmp_path, "linear_proj.", "foundation_model.")
    stage = Stage("decoder", 10, kind="autoencoder")
    names = set(gradients(config, stage, build(config, path, stage), 0))
    assert names and all(n.startswith(("autoencoder.decoder.", "autoencoder.post_quant_conv.")) for n in names)


def test_recomputed_activations_give_the_same_gradients(file):
    plain = gradients(configured(), ALIGN, build(configured(), file), 0)
    config = configured(train__gradient_checkpointing=True)
    again = gradients(config, ALIGN, build(config, file), 0)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7)


def test_scores_are_the_plain_definitions(file):
    parts = build(configured(), file)
    found = batch(parts)
    with torch.no_grad():
        rows = score_batch(configured(), ALIGN, parts, found)
        trivial = score_batch(configured(), ALIGN, None, found)
        autoencoder = parts.modules["autoencoder"]
        recon = autoencoder.decode(autoencoder.encode(found["image"]).latent_dist.mode()).sample
    one, other = ((x.clamp(-1, 1) + 1) / 2 for x in (found["image"], recon))
    assert rows[1].numbers["mse"] == pytest.approx(float(((one - other)[1] ** 2).mean()), rel=1e-4)
    assert rows[1].numbers["psnr"] == pytest.approx(-10 * torch.log10(((one - other)[1] ** 2).mean()).item(), abs=1e-3)
    mean = one[0].mean((1, 2), keepdim=True)
    assert trivial[0].numbers["mse"] == pytest.approx(float(((one[0] - mean) ** 2).mean()), rel=1e-4)
    assert [row.sample_id for row in rows] == ["a", "b"] and rows[0].arrays["recon"].shape == (3, 32, 32)


def test_black_images_are_scored_and_trained_without_nan(file):
    config, parts = configured(), build(configured(), file)
    black = batch(parts) | {"image": torch.full((2, 3, 32, 32), -1.0)}
    with torch.no_grad():
        rows = score_batch(config, ALIGN, parts, black)
    assert all(math.isfinite(value) for row in rows for value in row.numbers.values())
    opened(parts)
    loss, _ = objectives.objectives(config, ALIGN)[0].loss(parts, black, 99)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in parts.modules["autoencoder"].parameters())


def test_statistics_of_the_latents_are_those_of_the_training_batches(file):
    config, parts = configured(), build(configured(), file)
    opened(parts)
    objective = objectives.objectives(config, ALIGN)[0]
    torch.manual_seed(0)
    objective.loss(parts, batch(parts), 0)
    torch.manual_seed(0)
    _, sample, _ = objectives.forward(parts, batch(parts)["image"])
    found = parts.modules["statistics"].statistics()
    torch.testing.assert_close(found.mean, sample.detach().mean((0, 2, 3), keepdim=True))
    torch.testing.assert_close(found.std, sample.detach().std((0, 2, 3), keepdim=True, correction=0))


def test_stages_follow_one_another_in_the_guides_proportions():
    config = configured(train__epochs=30, train__global_batch=16)
    records = [Record(f"x/{i}", "x/1", "", "", split="train") for i in range(160)]
    made = schedule.stages(config, Manifest(records, Path()))
    lengths = [("align", 300, "base"), ("reconstruct", 150, "align"), ("margin", 100, "reconstruct")]
    assert [(s.name, s.steps, s.init_from) for s in made] == lengths and {s.kind for s in made} == {"autoencoder"}


def test_critic_learns_before_it_is_listened_to_and_goes_on_in_later_stages():
    listens, learns = schedule.critic_steps(configured(), Stage("align", 1000))
    assert (listens, learns) == (170, 139)
    assert schedule.critic_steps(configured(), Stage("reconstruct", 500, "align")) == (0, 0)


def test_margins_and_shares_belong_to_their_stages():
    names = ("align", "reconstruct", "margin", "single")
    found = [objectives.loss_weights(configured(), Stage(name, 10)) for name in names]
    wanted = [(0.5, 0, 0), (0.1, 0, 0), (0.1, 0.25, 0.5), (0.1, 0.25, 0.5)]
    assert [(w.alignment, w.distance_margin, w.cosine_margin) for w in found] == wanted


def test_the_projection_stands_still_in_the_last_stage():
    rates = {
        name: {g.name: g.lr for g in objectives.objectives(configured(), Stage(name, 10, "x"))[0].groups}
        for name in ("reconstruct", "margin")
    }
    assert rates["reconstruct"] == {"autoencoder": pytest.approx(5e-5), "projection": pytest.approx(5e-5)}
    assert rates["margin"] == {"autoencoder": pytest.approx(2e-5), "projection": 0.0}
