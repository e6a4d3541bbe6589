"""The judge learns users from a few images, the same way every time, and from nothing else."""

import torch

from lib.recipes.vavae_microdoppler.dit import judge


def striped(rows: torch.Tensor) -> torch.Tensor:
    """Images (n, 3, 64, 64) that are dark but for a bright line at a row each: users walk at different speeds."""
    images = torch.full((len(rows), 3, 64, 64), -1.0)
    for image, row in zip(images, rows, strict=True):
        image[:, int(row) : int(row) + 4] = 1.0
    return images


def test_users_that_differ_in_speed_are_told_apart_at_any_moment(monkeypatch):
    monkeypatch.setattr(judge, "STEPS", 40)
    labels = torch.arange(24) % 3
    images = striped(12 + 16 * labels + torch.arange(24) % 4)
    judged = judge.learn(judge.small(images), labels, 3, torch.device("cpu"))
    again = judge.learn(judge.small(images), labels, 3, torch.device("cpu"))
    unseen = striped(torch.tensor([13, 30, 46])).roll(17, 3) + 0.05
    assert judged(unseen).argmax(1).tolist() == [0, 1, 2]
    assert all(torch.equal(one, other) for one, other in zip(judged.parameters(), again.parameters(), strict=True))
    assert not judged.training and not any(p.requires_grad for p in judged.parameters())


def test_larger_images_are_averaged_down():
    judged = judge.Judge(3).eval()
    small = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(judged(small.repeat_interleave(4, 2).repeat_interleave(4, 3)), judged(small))
