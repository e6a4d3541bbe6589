"""The network's parts: published names and sizes, the mask, gradients through a frozen language model."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from lib.recipes.llava_map import assemble, causal, costs, decoder, encoder, language_model, layout, model, qformer
from lib.recipes.llava_map.config import Config, DataConfig, ModelConfig
from lib.recipes.llava_map.sizes import DEMO_LLM, ENCODERS, PLANNED, QFORMERS


def small(**changes) -> Config:
    settings = {
        "encoder": "demo",
        "qformer": "demo",
        "llm": "demo",
        "tokens_per_view": 4,
        "instances": 3,
        "points": 4,
        "decoder_width": 32,
        "decoder_layers": 2,
    }
    return Config(model=ModelConfig(**settings | changes), data=DataConfig(width_px=64, height_px=32))


def modules_of(config: Config) -> dict:
    torch.manual_seed(0)
    parts = model.published_parts(config)
    if config.model.llm != "none":
        parts |= {"llm": causal.demo(), "prompt": assemble.Prompt([1, 5, 6], 1, Path())}
    parts |= model.new_parts(config, language_model.body(config).hidden if "llm" in parts else 32)
    return {name: part.eval() for name, part in parts.items()}


def batch_of(frames: int = 2) -> dict:
    generator = torch.Generator().manual_seed(1)
    intrinsics = torch.tensor([[50.0, 0, 32], [0, 50, 16], [0, 0, 1]]).expand(frames, 6, 3, 3)
    return {
        "pictures": torch.randint(0, 256, (frames, 6, 3, 32, 64), generator=generator, dtype=torch.uint8),
        "intrinsics": intrinsics,
        "bev_from_cam": torch.eye(4).expand(frames, 6, 4, 4),
    }


def counted(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.fixture(scope="module")
def full_size() -> dict:
    """Everything at full size on the meta device: no memory, no weights."""
    config = Config()
    config.model.scene_interaction = True
    with torch.device("meta"):
        llm = causal.built(LlamaConfig(**PLANNED[config.model.llm]))
        return model.published_parts(config) | {"llm": llm} | model.new_parts(config, 4096)


def test_full_size_counts_are_those_of_the_facts(full_size):
    """Facts 1.12; the language model there includes its head of 131 072 000, which is not built."""
    counts = {name: counted(part) for name, part in full_size.items()}
    assert counts["image"] == 23_508_032
    assert counts["qformer"] == 105_137_664 + 32 * 768
    assert counts["llm"] == 6_738_415_616 - 131_072_000
    assert counts["queries"] == 4_587_520
    assert counts["interaction"] == 9_487_873
    assert counted(full_size["bridge"].rays) == 2_770_368  # 2.77 M


def test_qformer_has_the_255_published_names(full_size):
    """Named by hand from BLIP-2's layout: 16 tensors a layer, 10 more on even layers, outer norm, query tokens."""
    inner = [f"attention.attention.{n}" for n in ("query", "key", "value")] + [
        "attention.output.dense",
        "attention.output.LayerNorm",
    ]
    feed = ["intermediate_query.dense", "output_query.dense", "output_query.LayerNorm"]
    names = {"query_tokens", "qformer.layernorm.weight", "qformer.layernorm.bias"}
    for i in range(12):
        layers = inner + feed + ([n.replace("attention.", "crossattention.", 1) for n in inner] if i % 2 == 0 else [])
        names |= {f"qformer.encoder.layer.{i}.{n}.{kind}" for n in layers for kind in ("weight", "bias")}
    assert len(names) == 255 and set(full_size["qformer"].state_dict()) == names


@pytest.mark.parametrize("name", sorted(ENCODERS))
@pytest.mark.parametrize("llm", ["none", "demo", *PLANNED])
def test_closed_forms_equal_the_networks(name, llm):
    config = Config()
    config.model.encoder, config.model.llm, config.model.scene_interaction = name, llm, llm in ("none", "demo")
    config.data.centreline = llm == "demo"
    body = language_model.body(config)
    with torch.device("meta"):
        parts = model.published_parts(config)
        parts |= {"llm": causal.built(LlamaConfig(**(PLANNED | {"demo": DEMO_LLM})[llm]))} if body else {}
        parts |= model.new_parts(config, language_model.hidden_width(config, body.hidden if body else None))
    assert {name: counted(part) for name, part in parts.items()} == costs.parts(config, body)


def test_instances_share_their_positions():
    places = layout.Layout(prefix=7, instances=3, points=2).position_ids()
    assert places.tolist() == [*range(7), 7, 8, 9, 7, 8, 9, 7, 8, 9]


def test_gradient_reaches_queries_and_qformer_through_the_frozen_language_model():
    config = small()
    modules = modules_of(config)
    for name in ("image", "llm"):
        modules[name].requires_grad_(False)
    logits, points = model.detect(modules, config, batch_of())
    (logits.sum() + points.square().sum()).backward()
    # a decoder's last offset layer starts at zero, so the gradient must come through the class head as well
    for name in ("qformer", "bridge", "queries"):
        assert any(p.grad is not None and p.grad.any() for p in modules[name].parameters()), name
    assert modules["qformer"].query_tokens.grad.any() and modules["queries"].instance_content.grad.any()
    assert all(p.grad is None for name in ("image", "llm") for p in modules[name].parameters())


def test_recomputed_activations_give_the_same_gradient():
    config = small()
    gradients = []
    for recompute in (False, True):
        modules = modules_of(config)
        modules["llm"].requires_grad_(False)
        config.train.gradient_checkpointing = recompute
        logits, _ = model.detect(modules, config, batch_of())
        logits.sum().backward()
        assert modules["llm"].layers[0].gradient_checkpointing == recompute
        gradients.append(modules["queries"].point_content.grad)
    assert torch.allclose(*gradients, atol=1e-6) and gradients[0].any()


def test_a_half_precision_language_model_works_under_autocast():
    """As on a card: the language model is held in bf16, everything new in fp32."""
    config = small()
    modules = modules_of(config)
    modules["llm"].to(torch.bfloat16).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        logits, points = model.detect(modules, config, batch_of())
    assert logits.dtype == points.dtype == torch.float32
    logits.sum().backward()
    assert modules["queries"].point_content.grad.isfinite().all() and modules["queries"].point_content.grad.any()


def test_pictures_matter_with_and_without_language_model():
    for config in (small(), small(llm="none", scene_interaction=True)):
        modules, one, other = modules_of(config), batch_of(1), batch_of(1)
        other["pictures"] = 255 - one["pictures"]
        with torch.no_grad():
            found = [model.detect(modules, config, batch)[0] for batch in (one, other)]
        assert not torch.allclose(*found, atol=1e-7)


def test_qformer_begins_with_the_tokens_it_was_trained_on():
    """Where the image encoder is its own, there is no random projection between.

    Rays come in only as they are learned.
    """
    size = QFORMERS["demo"]
    bridge = qformer.Bridge(size.encoder_width, size, 4, 32)
    tokens, rays = torch.randn(2, 5, size.encoder_width), torch.randn(2, 5, size.rays.widths[-1])
    normalised = (tokens - tokens.mean(-1, keepdim=True)) / tokens.std(-1, keepdim=True, correction=0)
    assert torch.allclose(bridge.encoder_tokens(tokens, rays), normalised, atol=1e-4)
    bridge.encoder_tokens(tokens, rays).square().sum().backward()
    assert bridge.from_rays.weight.grad.any()


def test_cameras_are_not_optional():
    batch = batch_of()
    del batch["bev_from_cam"]
    with pytest.raises(KeyError, match="bev_from_cam"):
        model.detect(modules_of(small()), small(), batch)


def test_rays_pass_through_the_middle_of_their_cells():
    """A camera 1.5 m up looking along y: the token right of the middle must look to the right (x > 0) and ahead."""
    pose = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]])
    intrinsics = torch.tensor([[[50.0, 0, 32], [0, 50, 16], [0, 0, 1]]])
    # (1, 8, 5, 3), in units of (15, 30, 2) m
    points = encoder.ray_points(intrinsics, pose, grid=(2, 4), size_px=(32, 64), depths=5, half_extent_m=(15.0, 30.0))
    depth_m = 1 + 59 * (3 / 4) ** 2
    ray = torch.tensor([(40 - 32) / 50, 1.0, -(8 - 16) / 50])  # token of row 0, column 2: pixel (40, 8)
    wanted = (ray * depth_m + torch.tensor([0, 0, 1.5])) / torch.tensor([15.0, 30, 2])
    assert torch.allclose(points[0, 2, 3], wanted.clamp(-2, 2), atol=1e-5)


def test_grid_of_tokens_is_what_the_encoder_gives():
    for name, size_px in (("demo", (112, 200)), ("demo", (100, 90))):
        net = encoder.ImageEncoder(ENCODERS[name]).eval()
        rows, columns = net.grid(*size_px)
        with torch.no_grad():
            assert net(torch.zeros(1, 3, *size_px)).shape[1] == rows * columns


def test_start_lines_are_spread_and_inside():
    lines = decoder.spread_lines(50, 20)
    assert lines.min() > 0 and lines.max() < 1
    centres = lines.mean(1)
    assert (torch.cdist(centres, centres) + torch.eye(50)).min() > 0.03
    assert centres.mean(0) == pytest.approx([0.5, 0.5], abs=0.05)


def test_untrained_decoder_sees_hardly_any_line():
    """The prior of 1 % keeps the focal loss from drowning in false alarms."""
    config = small()
    with torch.no_grad():
        logits, points = model.detect(modules_of(config), config, batch_of())
    assert logits.shape == (2, 2, 3, 3) and points.shape == (2, 2, 3, 4, 2)
    assert logits.sigmoid().max() < 0.1 and (points > 0).all() and (points < 1).all()
