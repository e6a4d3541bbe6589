"""Map queries, the optional look past the language model, and the map decoder (MapTR's refinement, per-layer heads)."""

import math

import torch
from torch import Tensor, nn

QUERY_STD = 0.02  # of the order of a language model's own embeddings
PRIOR = 0.01  # of a query being a line: without it the focal loss starts among false alarms (Lin et al. 2017)
EMBEDDING = 64
COORDINATE_OCTAVES = 10


class MapQueries(nn.Module):
    """Tokens that ask: one for each instance and one for each of its points. Content and place are learned apart."""

    def __init__(self, instances: int, points: int, hidden: int):
        super().__init__()
        self.instance_content = nn.Parameter(torch.randn(instances, hidden) * QUERY_STD)
        self.instance_position = nn.Parameter(torch.randn(instances, hidden) * QUERY_STD)
        self.point_content = nn.Parameter(torch.randn(instances, points, hidden) * QUERY_STD)
        self.point_position = nn.Parameter(torch.randn(points, hidden) * QUERY_STD)  # shared by all instances

    def forward(self) -> Tensor:
        """(instances * (1 + points), hidden) in the order of layout.Layout."""
        instance = (self.instance_content + self.instance_position)[:, None]
        return torch.cat([instance, self.point_content + self.point_position], dim=1).flatten(0, 1)


class SceneInteraction(nn.Module):
    """Lets map tokens look at the scene tokens past the language model.

    It can learn the task alone, so it is off unless asked for.
    """

    def __init__(self, hidden: int, dim: int, layers: int, heads: int = 8):
        super().__init__()
        self.from_map = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, dim), nn.ReLU(), nn.Dropout(0.1))
        self.from_scene = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, dim), nn.ReLU(), nn.Dropout(0.1))
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, 4 * dim, 0.1, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.to_map = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden))
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, features: Tensor, scene: Tensor) -> Tensor:
        """features (batch, map tokens, hidden), scene (batch, scene tokens, hidden)."""
        change, memory = self.from_map(features), self.from_scene(scene)
        for layer in self.layers:
            change = layer(change, memory)
        found: Tensor = features + self.scale * self.to_map(change)
        return found


class MapDecoder(nn.Module):
    """Features of instances and points to classes and to points in [0, 1] over the region, layer by layer."""

    def __init__(self, instances: int, points: int, hidden: int, dim: int, layers: int, heads: int, classes: int):
        super().__init__()
        self.reduce_instance = reducer(hidden, [max(hidden // part, dim) for part in (2, 4, 8)] + [dim])
        self.reduce_point = reducer(hidden, [max(hidden // 4, dim), dim])
        self.reference = nn.Parameter(spread_lines(instances, points).logit())  # (instances, points, 2)
        self.coordinate = nn.Linear(4 * COORDINATE_OCTAVES, EMBEDDING)
        self.order = nn.Parameter(torch.randn(points, EMBEDDING) * QUERY_STD)
        self.layers = nn.ModuleList(Refinement(dim, heads, classes) for _ in range(layers))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (batch, instances * (1 + points), hidden) -> of every layer, logits (layers, batch, instances,
        classes) and points (layers, batch, instances, points, 2).
        """
        with torch.autocast(features.device.type, enabled=False):
            blocks = features.float().reshape(len(features), len(self.reference), -1, features.shape[-1])
            instance, point = self.reduce_instance(blocks[:, :, 0]), self.reduce_point(blocks[:, :, 1:])
            reference = self.reference.expand(len(features), -1, -1, -1)
            found = []
            for layer in self.layers:
                place = self.coordinate(coordinate_code(reference.sigmoid()))
                point, logits, offset = layer(instance, point, place, self.order.expand_as(place))
                reference = reference + offset
                found.append((logits, reference.sigmoid()))
                reference = reference.detach()  # each layer answers for its own step only, as in MapTR
            return torch.stack([logits for logits, _ in found]), torch.stack([points for _, points in found])


class Refinement(nn.Module):
    """One step: the points of an instance look at one another, then each moves; their mean is classified."""

    def __init__(self, dim: int, heads: int, classes: int):
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(dim, heads, 2 * dim, 0.0, batch_first=True, norm_first=True)
        self.offset = nn.Sequential(
            nn.Linear(2 * dim + 2 * EMBEDDING, dim),
            nn.ReLU(),
            nn.Linear(dim, dim // 2),
            nn.ReLU(),
            zeroed(nn.Linear(dim // 2, 2)),
        )
        score = nn.Linear(dim, classes)
        nn.init.constant_(score.bias, -math.log((1 - PRIOR) / PRIOR))
        self.classify = nn.Sequential(nn.LayerNorm(dim), score)

    def forward(self, instance: Tensor, point: Tensor, place: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """instance (batch, instances, dim), point (batch, instances, points, dim), codes of place and order -> the
        point features, logits (batch, instances, classes) and moves (batch, instances, points, 2) before the sigmoid.
        """
        point = self.attention(point.flatten(0, 1)).view_as(point)
        each = instance[:, :, None].expand_as(point)
        offset = self.offset(torch.cat([point, each, place, order], dim=-1))
        return point, self.classify(point.mean(2) + instance), offset


def zeroed(layer: nn.Linear) -> nn.Linear:
    """Weight and bias 0: the layer changes nothing before it has learned."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def reducer(width: int, widths: list[int]) -> nn.Sequential:
    """Layers from `width` down to the last of `widths`."""
    layers: list[nn.Module] = []
    for wanted in widths:
        layers += [nn.LayerNorm(width), nn.Linear(width, wanted), nn.ReLU(), nn.Dropout(0.1)]
        width = wanted
    return nn.Sequential(*layers)


def spread_lines(instances: int, points: int) -> Tensor:
    """Start lines (instances, points, 2) in [0, 1], spread over the region, half along and half across it.

    One shared line would make all queries alike. Centres follow the additive sequence of the plastic number, which
    fills a square evenly for any count.
    """
    number = torch.arange(1, instances + 1, dtype=torch.float64)
    centre = torch.stack([(0.5 + number / 1.3247179572447) % 1, (0.5 + number / 1.3247179572447**2) % 1], dim=1)
    along = torch.linspace(-0.15, 0.15, points, dtype=torch.float64, device=number.device)
    upright = (number % 2)[:, None]
    offsets = torch.stack([along * (1 - upright), along * upright], dim=-1)
    return (centre[:, None] + offsets).clamp(0.02, 0.98).float()


def coordinate_code(points: Tensor) -> Tensor:
    """Sine and cosine at octaves of each coordinate: (..., 2) in [0, 1] -> (..., 4 * COORDINATE_OCTAVES)."""
    angles = points[..., None] * math.pi * 2.0 ** torch.arange(COORDINATE_OCTAVES, device=points.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
