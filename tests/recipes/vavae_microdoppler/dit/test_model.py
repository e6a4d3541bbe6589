import pytest
import torch

from lib.core.errors import Stop
from lib.recipes.vavae_microdoppler.dit import flow
from lib.recipes.vavae_microdoppler.dit.model import LightningDiT, Rope, position_table, time_frequencies
from lib.recipes.vavae_microdoppler.latents import LatentStatistics
from lib.recipes.vavae_microdoppler.size import DITS, DiTSize

SMALL = DiTSize(depth=1, width=16, heads=2, latent_side=4, latent_channels=3, labels=5)


@pytest.mark.parametrize(
    ("name", "millions", "tensors"), [("S", 32.61, 159), ("B", 129.81, 159), ("L", 457.16, 303), ("XL", 674.14, 351)]
)
def test_published_sizes_have_the_published_counts(name, millions, tensors):
    # facts/vavae.md 5.2, 31 users and the null row
    depth, width, heads = DITS[name]
    with torch.device("meta"):
        model = LightningDiT(DiTSize(depth, width, heads))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert len(model.state_dict()) == tensors


def test_the_names_of_all_tensors_are_known_without_the_network():
    """lora.targets and lora.full are compared with them in step 1; the position table is no weight to train."""
    named = {name for name, _ in LightningDiT(SMALL).named_parameters()}
    assert set(SMALL.tensors()) == named - {"pos_embed"}


def test_embeddings_have_the_published_values():
    # facts/vavae.md 5.2
    t = time_frequencies(torch.tensor([0.5]))[0]
    assert t[:4].tolist() == pytest.approx([0.87758, 0.89369, 0.90772, 0.91992], abs=1e-5)
    assert t[128:132].tolist() == pytest.approx([0.47943, 0.44868, 0.41958, 0.39211], abs=1e-5)
    rope = Rope(64, 16)
    assert float(rope.freqs_cos.double().sum()) == pytest.approx(11910.456, abs=0.05)
    assert float(rope.freqs_sin.double().sum()) == pytest.approx(2756.330, abs=0.05)
    assert rope.freqs_sin[17, :4].tolist() == pytest.approx([0.84147, 0.84147, 0.53317, 0.53317], abs=1e-5)
    assert rope.freqs_sin[16, [0, 1, 32, 33]].tolist() == pytest.approx([0.84147, 0.84147, 0, 0], abs=1e-5)
    table = position_table(8, 4)
    assert table[1].tolist() == pytest.approx([0.8415, 0.01, 0.5403, 1, 0, 0, 1, 1], abs=1e-4)
    assert table[4].tolist() == pytest.approx([0, 0, 1, 1, 0.8415, 0.01, 0.5403, 1], abs=1e-4)


def test_a_fresh_network_predicts_no_velocity():
    model = LightningDiT(SMALL)
    assert not model(torch.randn(2, 3, 4, 4), torch.rand(2), torch.tensor([0, 5])).any()


@pytest.mark.parametrize("labels", [2, 5, 31])
def test_the_null_row_of_training_is_the_null_row_of_sampling(labels):
    model = LightningDiT(DiTSize(1, 16, 2, 4, 3, labels))
    seen = []
    model.y_embedder.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    dropped = flow.drop_labels(torch.zeros(8, dtype=torch.long), model.null, 1.0)
    flow.guided_pair(model, torch.randn(2, 3, 4, 4), 0.5, torch.tensor([0, 1]), 2.0)
    assert dropped.tolist() == [labels] * 8 and seen[0][2:].tolist() == [labels] * 2
    assert model.y_embedder.embedding_table.num_embeddings == labels + 1


def test_labels_are_dropped_at_their_rate():
    torch.manual_seed(0)
    dropped = flow.drop_labels(torch.zeros(4000, dtype=torch.long), 9, 0.1)
    assert float((dropped == 9).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_shifted_grid_is_the_formula():
    # t' = s t / (1 + (s - 1) t), s = 0.3, t = 1/2: 0.15 / 0.65
    assert flow.time_grid(3, 0.3).tolist() == pytest.approx([0, 0.15 / 0.65, 1])


class Towards:
    """The exact velocity field of data that is one point: v = (point - x) / (1 - t)."""

    null = 9

    def __init__(self, point):
        self.point = point

    def __call__(self, x, t, label):
        return (self.point - x) / (1 - t).clamp_min(1e-3).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("method", ["euler", "heun", "dopri5"])
def test_samplers_follow_a_straight_path_to_its_end(method):
    point, noise = torch.full((2, 3, 2, 2), 3.0), torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    times = flow.time_grid(20) * 0.999  # the field is singular at t = 1
    if method == "dopri5":
        times = flow.time_grid(20)
    final = flow.METHODS[method](flow.velocity_of(Towards(point), torch.tensor([0, 1])), noise, times)[-1]
    torch.testing.assert_close(final, point, rtol=0, atol=0.02)


def test_guidance_is_on_all_channels_and_off_before_its_interval():
    def model(x, t, label):
        return torch.where(label[:, None, None, None] == 9, 0.0, 1.0).expand(len(x), 5, 2, 2)

    model.null = 9
    x, label = torch.zeros(2, 5, 2, 2), torch.tensor([0, 1])
    assert (flow.guided_pair(model, x, 0.5, label, 3.0)[0] == 3).all()
    assert (flow.guided_pair(model, x, 0.05, label, 3.0, interval_start=0.1)[0] == 1).all()
    published = flow.guided_pair(model, x, 0.5, label, 3.0, first3=True)[0]
    assert (published[:, :3] == 3).all() and (published[:, 3:] == 1).all()


def test_normalised_latents_come_back_and_have_unit_scale():
    noise = torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    latents = noise * torch.tensor([1.0, 2, 3]).reshape(1, 3, 1, 1) + 5
    statistics = LatentStatistics.of(latents)
    normal = statistics.normalise(latents)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-4 and (normal.std((0, 2, 3)) - 1).abs().max() < 1e-4
    torch.testing.assert_close(statistics.denormalise(normal), latents)


@pytest.mark.parametrize("statistics", [
    LatentStatistics(torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1)), LatentStatistics(torch.zeros(3), torch.ones(3)),
    LatentStatistics(torch.zeros(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)),
], ids=["other channels", "squeezed", "zero deviation"])  # fmt: skip
def test_statistics_of_a_wrong_shape_or_of_nothing_are_refused(statistics):
    with pytest.raises(Stop, match="latents_stats"):
        statistics.check(3, "latents_stats.pt")
