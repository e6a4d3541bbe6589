"""An invented right hand in MANO's file format (778 vertices, 1538 faces, 16 joints, every key), so that everything
runs without the licence.

It is built from rings: a wrist of 16 vertices, palm rings of 32, four finger tubes that share web edges, a thumb tube
in an opening of the palm. Positive rotation about z bends a finger, as in MANO. Nothing comes from MANO but the format
and the vertex ids of finger tips and wrist.
"""

import functools
import itertools
from collections.abc import Set

import numpy as np

from lib.recipes.hamer.hand_shape import (
    ALONG,
    ALONG_THUMB,
    MODES,
    PALM,
    RADII,
    THUMB_RADIUS,
    WRIST,
    belongs,
    direction,
    finger_joints,
    palm_ring,
    place_tube,
    smooth_step,
    thumb_joints,
)
from lib.recipes.hamer.mano_file import TIPS, VERTICES, ManoModel

WRIST_IDS = (92, 234, 239, 279, 215, 214, 121, 78, 79, 108, 120, 119, 117, 118, 122, 38)  # loop of MANO's open wrist
NAIL_IDS = {3: 555, 4: 672}  # FreiHAND takes these as tips of ring and pinky; here they lie next to TIPS
OPENING = (2, 3, 4), (28, 29, 30, 31)  # palm rings and columns at whose outline the thumb starts


@functools.cache
def stand_in_hand() -> ManoModel:
    """The hand, the same on every machine. Half a second of edge splitting, so once in a process."""
    mesh = Mesh()
    mean = mesh.place({})
    shapedirs = np.stack([mesh.place({name: step}) - mean for name, step in MODES.items()], -1)
    order = numbering(mesh)
    weights, regressor = mesh.weights(mean), mesh.regressor()
    return ManoModel(
        name="stand-in hand, not MANO",
        v_template=mean[order],
        shapedirs=shapedirs[order],
        posedirs=np.zeros((VERTICES, 3, 135)),
        J_regressor=regressor[:, order],
        weights=weights[order],
        f=np.argsort(order)[np.array(mesh.faces)],
        hands_components=np.eye(45),
        hands_mean=np.tile([0.0, 0.0, 0.25], 15) * np.repeat([1.0] * 12 + [0.4] * 3, 3),
    )


class Mesh:
    """Topology once, positions for any proportions.

    Rings are lists of vertex numbers; `halves` are later splits of edges.
    """

    def __init__(self) -> None:
        self.count = 0
        self.faces: list[tuple[int, ...]] = []
        self.halves: list[tuple[int, int]] = []
        self.wrist, self.palm = self.ring(16), [self.ring(32) for _ in PALM]
        self.webs = self.ring(3)
        self.fingers = [[self.ring(len(loop)) for _ in ALONG] + [self.ring(1)] for loop in self.finger_loops()]
        self.thumb = [self.ring(10) for _ in ALONG_THUMB] + [self.ring(1)]
        self.connect()
        self.drop_unused()
        self.split_longest(self.place({}))

    def ring(self, size: int) -> list[int]:
        self.count += size
        return list(range(self.count - size, self.count))

    def finger_loops(self) -> list[list[int]]:
        """The last palm ring, cut into four loops: back of the hand, web, palm, web.

        Columns 0-12 are the back, 16-28 the palm side.
        """
        ring, web = self.palm[-1], self.webs
        back = [ring[3 * i : 3 * i + 4] for i in range(4)]
        front = [[ring[28 - k] for k in range(3 * i + 3, 3 * i - 1, -1)] for i in range(4)]
        left = [ring[29:32], [web[0]], [web[1]], [web[2]]]  # towards the thumb
        right = [[web[0]], [web[1]], [web[2]], ring[13:16]]
        return [back[i] + right[i] + front[i] + left[i] for i in range(4)]

    def thumb_loop(self) -> list[int]:
        rings, columns = OPENING
        side = [[self.palm[r][c] for c in columns] for r in rings]
        return side[0] + [side[1][-1]] + side[2][::-1] + [side[1][0]]

    def connect(self) -> None:
        self.widen(self.wrist, self.palm[0])
        removed = {(OPENING[0][i], c) for i in (0, 1) for c in OPENING[1][:-1]}
        for r, (near, far) in enumerate(itertools.pairwise(self.palm)):
            self.band(near, far, skip={c for row, c in removed if row == r})
        for loop, rings in zip(self.finger_loops(), self.fingers, strict=True):
            self.tube(loop, rings)
        self.tube(self.thumb_loop(), self.thumb)

    def tube(self, loop: list[int], rings: list[list[int]]) -> None:
        for near, far in zip([loop, *rings[:-2]], rings[:-1], strict=True):
            self.band(near, far)
        last, tip = rings[-2], rings[-1][0]
        self.faces += [(a, b, tip) for a, b in zip(last, last[1:] + last[:1], strict=True)]

    def band(self, near: list[int], far: list[int], skip: Set[int] = frozenset()) -> None:
        n = len(near)
        for i in set(range(n)) - skip:
            a, b, c, d = near[i], near[(i + 1) % n], far[(i + 1) % n], far[i]
            self.faces += [(a, b, c), (a, c, d)]

    def widen(self, near: list[int], far: list[int]) -> None:
        for i, a in enumerate(near):
            b, first, middle, last = near[(i + 1) % 16], far[2 * i], far[2 * i + 1], far[(2 * i + 2) % 32]
            self.faces += [(a, middle, first), (a, b, middle), (b, last, middle)]

    def drop_unused(self) -> None:
        """The two palm vertices inside the thumb's opening belong to no face."""
        self.kept = sorted({vertex for face in self.faces for vertex in face})
        self.number = {old: new for new, old in enumerate(self.kept)}
        self.faces = [tuple(self.number[vertex] for vertex in face) for face in self.faces]

    def split_longest(self, rings: np.ndarray) -> None:
        """Halves the longest inner edge until there are 778 vertices; each split adds one vertex and two faces."""
        vertices = list(rings)
        while len(vertices) < VERTICES:
            sides: dict[tuple[int, int], list[tuple[int, ...]]] = {}
            for face in self.faces:
                for a, b in zip(face, face[1:] + face[:1], strict=True):
                    sides.setdefault((min(a, b), max(a, b)), []).append(face)
            lengths = {  # rounded, so that equal edges are told apart by their numbers, on every machine
                (a, b): (round(float(np.linalg.norm(vertices[a] - vertices[b])), 9), (a, b))
                for (a, b), faces in sides.items()
                if len(faces) == 2
            }
            a, b = max(lengths, key=lengths.__getitem__)
            self.halves.append((a, b))
            for face in sides[a, b]:
                self.faces.remove(face)
                self.faces += [tuple(len(vertices) if v == end else v for v in face) for end in (b, a)]
            vertices.append((vertices[a] + vertices[b]) / 2)

    def spread(self, of_rings: np.ndarray) -> np.ndarray:
        """Values (n, …) of the ring vertices -> of all vertices, the split ones halfway between their edge's ends."""
        values = list(of_rings[self.kept])
        for a, b in self.halves:
            values.append((values[a] + values[b]) / 2)
        return np.array(values)

    def place(self, changes: dict[str, float]) -> np.ndarray:
        """Vertex positions (778, 3) m of a hand with these relative changes (MODES)."""
        change = {name: 1 + changes.get(name, 0.0) for name in MODES}
        at = np.zeros((self.count, 3))
        at[self.wrist] = palm_ring(WRIST, change, change["wrist_width"])[::2]
        for i, (ring, row) in enumerate(zip(self.palm, PALM, strict=True)):
            blend = max(0.0, 1 - i / 3)
            at[ring] = palm_ring(row, change, change["wrist_width"] * blend + 1 - blend)
        for web, column in zip(self.webs, (3, 6, 9), strict=True):
            at[web] = at[[self.palm[-1][column], self.palm[-1][28 - column]]].mean(0) - [0.003, 0, 0]
        wide = change["finger_radius"]
        for finger, (rings, loop) in enumerate(zip(self.fingers, self.finger_loops(), strict=True)):
            place_tube(at, rings, loop, finger_joints(finger, change), ALONG, RADII[finger] * wide)
        place_tube(at, self.thumb, self.thumb_loop(), thumb_joints(change), ALONG_THUMB, THUMB_RADIUS * wide)
        self.smooth_junctions(at)
        return change["size"] * self.spread(at)

    def smooth_junctions(self, at: np.ndarray) -> None:
        """Rounds off where tubes leave the palm."""
        rings = [self.palm[-2], self.palm[-1], self.webs, *(rings[0] for rings in self.fingers)]
        rings += [self.thumb[0], self.thumb_loop(), *(self.palm[r] for r in (1, 2, 3, 4, 5))]
        neighbours = self.neighbours()
        chosen = sorted({vertex for ring in rings for vertex in ring if vertex in neighbours})
        for _ in range(3):
            at[chosen] = [0.5 * at[v] + 0.5 * at[neighbours[v]].mean(0) for v in chosen]

    def neighbours(self) -> dict[int, list[int]]:
        found: dict[int, set[int]] = {}
        for face in self.faces:
            ring_face = [self.kept[v] for v in face if v < len(self.kept)]
            for vertex in ring_face:
                found.setdefault(vertex, set()).update(ring_face)
        return {vertex: sorted(others - {vertex}) for vertex, others in found.items()}

    def joint_rings(self) -> dict[int, list[int]]:
        """Joint (MANO order) -> the vertices whose mean it is."""
        found = {0: self.wrist + self.palm[0]}
        for finger, first in enumerate((1, 4, 10, 7)):  # MANO stores the pinky before the ring finger
            back = range(3 * finger, 3 * finger + 4)
            found[first] = [self.palm[-2][c] for c in back] + [self.palm[-2][28 - c] for c in back]
            found[first + 1], found[first + 2] = self.fingers[finger][2], self.fingers[finger][5]
        found[13] = [self.palm[r][c] for r in (1, 2) for c in (0, 1, 2, 3, 4, 24, 25, 26, 27, 28)]
        found[14], found[15] = self.thumb[1], self.thumb[4]
        return found

    def regressor(self) -> np.ndarray:
        """(16, 778): joints as means of vertices."""
        rows = np.zeros((16, VERTICES))
        for joint, ring in self.joint_rings().items():
            kept = [self.number[vertex] for vertex in ring]
            rows[joint, kept] = 1 / len(kept)
        return rows

    def weights(self, vertices: np.ndarray) -> np.ndarray:
        """Skinning weights (778, 16): smooth across a joint, and between neighbouring fingers in the palm."""
        joints = self.regressor() @ vertices
        at, owner = np.zeros((self.count, 3)), np.full(self.count, -1)
        at[self.kept] = vertices[: len(self.kept)]
        for finger, rings in enumerate([*self.fingers, self.thumb]):
            owner[[vertex for ring in rings for vertex in ring]] = finger
        weights = np.zeros((self.count, 16))
        for finger, first in enumerate((1, 4, 10, 7, 13)):
            chain = joints[first : first + 3]
            share = belongs(at, owner, finger, joints)
            bends = [
                share * smooth_step(at, chain[i], direction(chain, i), width)
                for i, width in enumerate((0.011, 0.006, 0.005))
            ]
            weights[:, first : first + 3] = np.stack([bends[0] - bends[1], bends[1] - bends[2], bends[2]], 1).clip(0)
        weights[:, 0] = (1 - weights[:, 1:].sum(1)).clip(0)
        weights = self.spread(weights)
        return weights / weights.sum(1, keepdims=True)


def numbering(mesh: Mesh) -> np.ndarray:
    """(778,) which of our vertices gets each of MANO's ids; ids without a meaning are filled in order."""
    ids = {mesh.number[old]: new for old, new in zip(mesh.wrist, WRIST_IDS, strict=True)}
    for finger, tip in enumerate((TIPS[1], TIPS[2], TIPS[3], TIPS[4])):
        ids[mesh.number[mesh.fingers[finger][-1][0]]] = tip
    ids[mesh.number[mesh.thumb[-1][0]]] = TIPS[0]
    for finger, nail in ((2, NAIL_IDS[3]), (3, NAIL_IDS[4])):
        ids[mesh.number[mesh.fingers[finger][-2][2]]] = nail
    free = iter(sorted(set(range(VERTICES)) - set(ids.values())))
    places = [ids[v] if v in ids else next(free) for v in range(VERTICES)]
    return np.argsort(places)
