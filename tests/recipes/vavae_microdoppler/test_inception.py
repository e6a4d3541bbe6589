"""Fréchet distance in a space that a person brings as a TorchScript file."""

import numpy as np
import pytest
import torch

from lib.core.errors import Stop
from lib.core.records import Row
from lib.recipes.vavae_microdoppler import inception


class Means(torch.nn.Module):
    """Stands for the published network, with its signature: the mean of each colour of uint8 pictures."""

    def forward(self, image: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert image.dtype == torch.uint8 and return_features
        return image.float().mean((2, 3))


class Maps(torch.nn.Module):
    def forward(self, image: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return image.float()


@pytest.fixture
def saved(tmp_path):
    def save(module):
        path = tmp_path / f"{type(module).__name__}.pt"
        torch.jit.script(module).save(str(path))
        return str(path)

    return save


def flat(levels):
    """One-coloured images in [-1, 1] whose uint8 values are `levels` (n, 3)."""
    return torch.tensor(levels, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 4, 4) / 127.5 - 1


def rows_of(path, real, fake):
    return [Row(str(i), "g", {}, texts=text) for i, text in enumerate(inception.texts(path, real, fake))]


def test_the_distance_of_shifted_sets_is_the_squared_shift(saved):
    levels = np.random.default_rng(0).integers(10, 200, (12, 3))
    found = inception.distance(rows_of(saved(Means()), flat(levels), flat(levels + np.array([30, 0, 40]))))
    # equal covariances: only the means differ
    assert found["frechet_inception"] == pytest.approx(30**2 + 40**2, rel=1e-3)


def test_without_the_file_rows_hold_nothing_and_there_is_no_distance():
    rows = rows_of("", flat([[1, 2, 3]]), flat([[1, 2, 3]]))
    assert rows[0].texts == {} and inception.distance(rows) == {}


def test_files_that_are_not_such_a_network_are_refused(saved, tmp_path):
    image = flat([[1, 2, 3]])
    with pytest.raises(Stop, match=r"missing\.pt does not exist"):
        inception.texts(str(tmp_path / "missing.pt"), image, image)
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(Stop, match=r"text\.pt is not a TorchScript file"):
        inception.texts(str(tmp_path / "text.pt"), image, image)
    with pytest.raises(Stop, match=r"features of shape \(1, 3, 4, 4\), not \(1, d\)"):
        inception.texts(saved(Maps()), image, image)
