"""A made-up right hand in MANO's file format (778 vertices, 1538 faces, 16 joints, every key), so that everything runs without the licence.

It is built from rings: a wrist of 16 vertices, palm rings of 32, four finger tubes that share web edges, a thumb tube in an opening of the
palm. Fingers point along -x, the palm faces -y, the thumb is at +z; positive rotation about z bends a finger, as in MANO.
Numbers are metres and were chosen by eye; nothing comes from MANO but the format and the vertex ids of finger tips and wrist.
"""
import functools
import itertools

import numpy

from lib.recipes.hamer.mano import TIPS, VERTICES, ManoModel

WRIST_IDS = (92, 234, 239, 279, 215, 214, 121, 78, 79, 108, 120, 119, 117, 118, 122, 38)  # the loop of MANO's open wrist
NAIL_IDS = {3: 555, 4: 672}  # FreiHAND takes these as tips of ring and pinky; here they lie next to TIPS
# What a shape number of 1 changes, relative to the mean hand.
MODES = {
    "size": 0.04, "finger_length": 0.05, "palm_length": 0.05, "palm_width": 0.05, "thickness": 0.07, "finger_radius": 0.06,
    "thumb_length": 0.06, "pinky_length": 0.07, "index_length": 0.04, "wrist_width": 0.06,
}  # fmt: skip
PALM = (  # x of a ring, half width, half thickness, z of its centre, from the wrist to the webs
    (0.084, 0.027, 0.018, 0.000), (0.074, 0.029, 0.018, 0.001), (0.063, 0.033, 0.018, 0.003), (0.051, 0.036, 0.018, 0.003),
    (0.038, 0.038, 0.017, 0.001), (0.024, 0.040, 0.016, -0.003), (0.009, 0.041, 0.013, -0.004),
    (-0.005, 0.042, 0.011, -0.004),
)  # fmt: skip
WRIST = (0.096, 0.027, 0.018, 0.0)
KNUCKLES = ((0.008, 0.003, 0.026), (0.004, 0.004, 0.005), (0.010, 0.003, -0.016), (0.020, 0.001, -0.034))  # index, middle, ring, pinky
BONES = ((0.042, 0.025, 0.023), (0.046, 0.029, 0.024), (0.042, 0.027, 0.024), (0.034, 0.020, 0.021))
RADII = (0.0095, 0.0098, 0.0092, 0.0080)
SPLAY = (0.10, 0.01, -0.08, -0.20)  # radians about y
THUMB = ((0.072, -0.006, 0.024), (0.046, -0.013, 0.047), (0.027, -0.017, 0.067), (0.007, -0.018, 0.082))  # three joints, tip
THUMB_RADIUS = 0.0118
ALONG = (0.62, 0.88, 1.0, 1.35, 1.75, 2.0, 2.45, 2.78, 2.94)  # rings of a finger in bones from its knuckle
ALONG_THUMB = (0.62, 1.0, 1.35, 1.75, 2.0, 2.45, 2.78, 2.94)
CAP = {2.78: 0.86, 2.94: 0.52}  # radius of the last rings, relative
OPENING = (2, 3, 4), (28, 29, 30, 31)  # palm rings and columns at whose outline the thumb starts


@functools.cache
def stand_in() -> ManoModel:
    """The hand, the same on every machine. Half a second of edge splitting, so once in a process."""
    mesh = Mesh()
    mean = mesh.place({})
    shapedirs = numpy.stack([mesh.place({name: step}) - mean for name, step in MODES.items()], -1)
    order = numbering(mesh)
    weights, regressor = mesh.weights(mean), mesh.regressor()
    return ManoModel(
        name="stand-in hand, not MANO",
        v_template=mean[order],
        shapedirs=shapedirs[order],
        posedirs=numpy.zeros((VERTICES, 3, 135)),
        J_regressor=regressor[:, order],
        weights=weights[order],
        f=numpy.argsort(order)[mesh.faces],
        hands_components=numpy.eye(45),
        hands_mean=numpy.tile([0.0, 0.0, 0.25], 15) * numpy.repeat([1.0] * 12 + [0.4] * 3, 3),
    )


class Mesh:
    """Topology once, positions for any proportions. Rings are lists of vertex numbers; `halves` are later splits of edges."""

    def __init__(self):
        self.count, self.faces, self.halves = 0, [], []
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
        """The last palm ring, cut into four loops: back of the hand, web, palm, web. Columns 0-12 are the back, 16-28 the palm side."""
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

    def band(self, near: list[int], far: list[int], skip: set[int] = frozenset()) -> None:
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

    def split_longest(self, vertices: numpy.ndarray) -> None:
        """Halve the longest inner edge until there are 778 vertices; each split adds one vertex and two faces."""
        vertices = list(vertices)
        while len(vertices) < VERTICES:
            sides = {}
            for face in self.faces:
                for a, b in zip(face, face[1:] + face[:1], strict=True):
                    sides.setdefault((min(a, b), max(a, b)), []).append(face)
            inner = [edge for edge, faces in sides.items() if len(faces) == 2]
            a, b = max(inner, key=lambda edge: (round(float(numpy.linalg.norm(vertices[edge[0]] - vertices[edge[1]])), 9), edge))
            self.halves.append((a, b))
            for face in sides[a, b]:
                self.faces.remove(face)
                self.faces += [tuple(len(vertices) if v == b else v for v in face), tuple(len(vertices) if v == a else v for v in face)]
            vertices.append((vertices[a] + vertices[b]) / 2)

    def spread(self, values: numpy.ndarray) -> numpy.ndarray:
        """Values of the ring vertices -> of all vertices, the split ones halfway between their edge's ends."""
        values = list(values[self.kept])
        for a, b in self.halves:
            values.append((values[a] + values[b]) / 2)
        return numpy.array(values)

    def place(self, changes: dict[str, float]) -> numpy.ndarray:
        """Vertex positions (778, 3) of a hand with these relative changes (MODES)."""
        change = {name: 1 + changes.get(name, 0.0) for name in MODES}
        at = numpy.zeros((self.count, 3))
        at[self.wrist] = palm_ring(WRIST, change, change["wrist_width"])[::2]
        for i, (ring, row) in enumerate(zip(self.palm, PALM, strict=True)):
            blend = max(0.0, 1 - i / 3)
            at[ring] = palm_ring(row, change, change["wrist_width"] * blend + 1 - blend)
        for web, column in zip(self.webs, (3, 6, 9), strict=True):
            at[web] = at[[self.palm[-1][column], self.palm[-1][28 - column]]].mean(0) - [0.003, 0, 0]
        for finger, (rings, loop) in enumerate(zip(self.fingers, self.finger_loops(), strict=True)):
            place_tube(at, rings, loop, finger_joints(finger, change), ALONG, RADII[finger] * change["finger_radius"])
        place_tube(at, self.thumb, self.thumb_loop(), thumb_joints(change), ALONG_THUMB, THUMB_RADIUS * change["finger_radius"])
        self.smooth_junctions(at)
        return change["size"] * self.spread(at)

    def smooth_junctions(self, at: numpy.ndarray) -> None:
        """Rounds off where tubes leave the palm."""
        rings = [self.palm[-2], self.palm[-1], self.webs, *(rings[0] for rings in self.fingers), self.thumb[0], self.thumb_loop()]
        rings += [self.palm[r] for r in (1, 2, 3, 4, 5)]
        neighbours = self.neighbours()
        chosen = sorted({vertex for ring in rings for vertex in ring if vertex in neighbours})
        for _ in range(3):
            at[chosen] = [0.5 * at[v] + 0.5 * at[neighbours[v]].mean(0) for v in chosen]

    def neighbours(self) -> dict[int, list[int]]:
        found = {}
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

    def regressor(self) -> numpy.ndarray:
        rows = numpy.zeros((16, VERTICES))
        for joint, ring in self.joint_rings().items():
            kept = [self.number[vertex] for vertex in ring]
            rows[joint, kept] = 1 / len(kept)
        return rows

    def weights(self, vertices: numpy.ndarray) -> numpy.ndarray:
        """Skinning weights (778, 16): smooth across a joint, and between neighbouring fingers in the palm."""
        joints = self.regressor() @ vertices
        at, owner = numpy.zeros((self.count, 3)), numpy.full(self.count, -1)
        at[self.kept] = vertices[: len(self.kept)]
        for finger, rings in enumerate([*self.fingers, self.thumb]):
            owner[[vertex for ring in rings for vertex in ring]] = finger
        weights = numpy.zeros((self.count, 16))
        for finger, first in enumerate((1, 4, 10, 7, 13)):
            chain = joints[first : first + 3]
            share = belongs(at, owner, finger, joints)
            bends = [share * smooth_step(at, chain[i], direction(chain, i), width) for i, width in enumerate((0.011, 0.006, 0.005))]
            weights[:, first : first + 3] = numpy.stack([bends[0] - bends[1], bends[1] - bends[2], bends[2]], 1).clip(0)
        weights[:, 0] = (1 - weights[:, 1:].sum(1)).clip(0)
        weights = self.spread(weights)
        return weights / weights.sum(1, keepdims=True)


def palm_ring(row: tuple, change: dict, width: float) -> numpy.ndarray:
    """32 points (x, y, z): the back from the thumb to the pinky, the pinky's side, the palm, the thumb's side."""
    x, half_width, half_thickness, centre = row
    angle = numpy.radians(numpy.concatenate([numpy.linspace(30, 150, 13), (165, 180, 195), numpy.linspace(210, 330, 13), (345, 360, 375)]))
    z = half_width * change["palm_width"] * width * signed_power(numpy.cos(angle), 0.85)
    y = half_thickness * change["thickness"] * signed_power(numpy.sin(angle), 0.75)
    share = (0.096 - x) / 0.101  # 0 at the wrist, 1 at the webs, which lie further back at the pinky
    x_bent = x + share * (5.0 * (z - 0.006) ** 2 + 0.12 * numpy.clip(-z, 0, None))
    return numpy.stack([0.096 + (x_bent - 0.096) * change["palm_length"], y, z + centre], 1)


def signed_power(value: numpy.ndarray, power: float) -> numpy.ndarray:
    return numpy.sign(value) * numpy.abs(value) ** power


def finger_joints(finger: int, change: dict) -> numpy.ndarray:
    """Knuckle, two joints and tip (4, 3)."""
    x, y, z = KNUCKLES[finger]
    length = change["finger_length"] * (change["index_length"] if finger == 0 else change["pinky_length"] if finger == 3 else 1)
    along = numpy.array([-numpy.cos(SPLAY[finger]), 0, numpy.sin(SPLAY[finger])])
    start = numpy.array([0.096 + (x - 0.096) * change["palm_length"], y * change["thickness"], z * change["palm_width"]])
    return start + numpy.concatenate([[0], numpy.cumsum(BONES[finger])])[:, None] * length * along


def thumb_joints(change: dict) -> numpy.ndarray:
    joints = numpy.array(THUMB)
    return joints[0] + (joints - joints[0]) * change["thumb_length"]


def place_tube(at: numpy.ndarray, rings: list[list[int]], loop: list[int], joints: numpy.ndarray, along: tuple, radius: float) -> None:
    """Rings of a finger around its bones, turned so that they do not twist against the loop in which the finger starts."""
    centre = at[loop].mean(0)
    for ring, place in zip(rings[:-1], along, strict=True):
        bone = min(int(place - 1e-9), 2)
        middle = joints[bone] + (place - bone) * (joints[bone + 1] - joints[bone])
        up, side = frame(joints[bone + 1] - joints[bone])
        angles = steps(numpy.stack([(at[loop] - centre) @ side, (at[loop] - centre) @ up], 1))
        thick = radius * (1.10 - 0.10 * place + (0.05 if place in (1, 2) else 0)) * CAP.get(place, 1)
        at[ring] = middle + thick * (numpy.cos(angles)[:, None] * side + 0.92 * numpy.sin(angles)[:, None] * up)
    at[rings[-1]] = joints[-1]


def frame(along: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Two directions across a bone: towards the back of the hand, and sideways."""
    along = along / numpy.linalg.norm(along)
    up = numpy.array([0.0, 1, 0]) - along[1] * along
    up /= numpy.linalg.norm(up)
    return up, numpy.cross(along, up)


def steps(points: numpy.ndarray) -> numpy.ndarray:
    """Evenly spaced angles in the sense and at the mean offset of the angles of `points` (n, 2)."""
    actual = numpy.unwrap(numpy.arctan2(points[:, 1], points[:, 0]))
    even = numpy.arange(len(points)) * 2 * numpy.pi / len(points) * numpy.sign(actual[-1] - actual[0])
    return even + (actual - even).mean()


def direction(chain: numpy.ndarray, i: int) -> numpy.ndarray:
    """Unit vector along the finger at its joint i: the mean of the bones before and after."""
    vector = chain[min(i + 1, 2)] - chain[max(i - 1, 0)]
    return vector / numpy.linalg.norm(vector)


def smooth_step(at: numpy.ndarray, joint: numpy.ndarray, along: numpy.ndarray, width: float) -> numpy.ndarray:
    """0 before a joint, 1 behind it, over `width` m on both sides."""
    x = ((at - joint) @ along / (2 * width) + 0.5).clip(0, 1)
    return x * x * (3 - 2 * x)


def belongs(at: numpy.ndarray, owner: numpy.ndarray, finger: int, joints: numpy.ndarray) -> numpy.ndarray:
    """How much of a vertex follows a finger: all of that finger's own, none of the others', a share of the palm by distance."""
    roots = joints[[1, 4, 10, 7]]
    if finger == 4:
        far = numpy.linalg.norm(at - (joints[13] + joints[14]) / 2, axis=1)
        share = (1.6 - far / 0.021).clip(0, 1)
    else:
        near = numpy.exp(-(((at[:, None, 2] - roots[None, :, 2]) / 0.008) ** 2))
        share = near[:, finger] / near.sum(1).clip(1e-9)
    return numpy.where(owner == finger, 1.0, numpy.where(owner >= 0, 0.0, share))


def numbering(mesh: Mesh) -> numpy.ndarray:
    """(778,) which of our vertices gets each of MANO's ids; ids without a meaning are filled in order."""
    ids = {mesh.number[old]: new for old, new in zip(mesh.wrist, WRIST_IDS, strict=True)}
    for finger, tip in enumerate((TIPS[1], TIPS[2], TIPS[3], TIPS[4])):
        ids[mesh.number[mesh.fingers[finger][-1][0]]] = tip
    ids[mesh.number[mesh.thumb[-1][0]]] = TIPS[0]
    for finger, nail in ((2, NAIL_IDS[3]), (3, NAIL_IDS[4])):
        ids[mesh.number[mesh.fingers[finger][-2][2]]] = nail
    free = iter(sorted(set(range(VERTICES)) - set(ids.values())))
    places = [ids[v] if v in ids else next(free) for v in range(VERTICES)]
    return numpy.argsort(places)
