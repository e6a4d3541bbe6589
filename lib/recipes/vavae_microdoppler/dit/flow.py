"""Rectified flow: the straight path from noise (t = 0) to a latent (t = 1), its loss, and sampling along it.

Times are log-normal in training (Esser et al. 2024) and shifted towards noise in sampling. Guidance acts on all
channels; the published sampler guides the first three only, a leftover of RGB pixels, and needs far larger scales for
it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Velocity = Callable[[Tensor, float], Tensor]  # of the states (n, c, h, w) at a time


def path(data: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(the point at t, the velocity there); data and noise (n, c, h, w), t (n,)."""
    t = t.reshape(-1, *(1,) * (data.ndim - 1))
    return t * data + (1 - t) * noise, data - noise


def lognormal_times(deviates: Tensor, mean: float = 0.0) -> Tensor:
    """Standard normal deviates (n,) -> times (n,) in (0, 1)."""
    return torch.sigmoid(deviates.double() + mean).float()


def velocity_losses(predicted: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """(squared error, 1 - cosine over the channels) of each sample (n,); velocities (n, c, h, w)."""
    squared = (predicted - velocity).pow(2).flatten(1).mean(1)
    cosine = (1 - F.cosine_similarity(predicted, velocity, dim=1)).flatten(1).mean(1)
    return squared, cosine


def drop_labels(label: Tensor, null: int, share: float) -> Tensor:
    """Replaces a share of the labels (n,) by the null label, which guidance subtracts in sampling."""
    return torch.where(torch.rand(label.shape, device=label.device) < share, null, label)


def time_grid(points: int, shift: float = 0.0) -> Tensor:
    """`points` times from 0 to 1, so one step less. A shift s in (0, 1) spends more of them near noise; 0 = uniform."""
    t = torch.linspace(0, 1, points)
    return shift * t / (1 + (shift - 1) * t) if shift > 0 else t


def guided_pair(
    model: Any, x: Tensor, t: float, label: Tensor, scale: float, interval_start: float = 0.0, first3: bool = False
) -> tuple[Tensor, Tensor]:
    """Guided velocities at x (n, c, h, w) and t for users `label` (n,): (of the labelled half, of the null half).

    There is no guidance while t < interval_start. model: a LightningDiT, or what has its signature and `null`. first3:
    the published behaviour; the other channels keep the prediction of their own half.
    """
    times = torch.full((2 * len(x),), t, device=x.device)
    both = model(torch.cat([x, x]), times, torch.cat([label, torch.full_like(label, model.null)]))
    with_label, without = both.chunk(2)
    guided = with_label if t < interval_start else without + scale * (with_label - without)
    if not first3:
        return guided, guided
    first, second = (torch.cat([guided[:, :3], half[:, 3:]], 1) for half in (with_label, without))
    return first, second


def velocity_of(
    model: Any, label: Tensor, scale: float = 1.0, interval_start: float = 0.0, first3: bool = False
) -> Velocity:
    """The field to integrate. A scale of 1 needs no second half."""
    if scale == 1.0:
        return lambda x, t: model(x, torch.full((len(x),), t, device=x.device), label)
    return lambda x, t: guided_pair(model, x, t, label, scale, interval_start, first3)[0]


def euler(velocity: Velocity, x: Tensor, times: Tensor) -> list[Tensor]:
    """All states (n, c, h, w) along the grid `times` (points,); x is the noise, the last one the sample."""
    states = [x]
    for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        states.append(states[-1] + (then - now) * velocity(states[-1], now))
    return states


def heun(velocity: Velocity, x: Tensor, times: Tensor) -> list[Tensor]:
    """Second order: two evaluations a step, so half the points cost the same as Euler."""
    states = [x]
    for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        first = velocity(states[-1], now)
        second = velocity(states[-1] + (then - now) * first, then)
        states.append(states[-1] + (then - now) * (first + second) / 2)
    return states


def dopri5(velocity: Velocity, x: Tensor, times: Tensor) -> list[Tensor]:
    """Adaptive Runge-Kutta 5(4) by scipy with the published tolerances; the states at the grid's times."""
    from scipy.integrate import solve_ivp

    def shaped(flat: np.ndarray) -> Tensor:
        return torch.as_tensor(flat, dtype=x.dtype, device=x.device).reshape(x.shape)

    def rate(t: float, flat: np.ndarray) -> np.ndarray:
        return velocity(shaped(flat), float(t)).flatten().cpu().numpy()

    start, grid = x.flatten().cpu().numpy(), times.double().numpy()
    solved = solve_ivp(rate, (0.0, 1.0), start, "RK45", grid, rtol=1e-3, atol=1e-6)
    return [shaped(state) for state in solved.y.T]


METHODS = {"euler": euler, "heun": heun, "dopri5": dopri5}
