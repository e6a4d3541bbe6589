"""A folder of photos -> depth, confidence, cameras, a coloured point cloud, a montage.

    OUT/<photo>.depth.npy        (h, w) float32, in units of the scene: the network knows no metres
    OUT/<photo>.depth.png        the same in colour;  <photo>.confidence.npy  (h, w) float32, at least 1
    OUT/sparse/{cameras,images,points3D}.txt   a COLMAP text model (camera from world, the first photo is the world)
    OUT/points.ply               the confident half of the pixels;  OUT/montage.png
"""
from pathlib import Path
from typing import Any

import numpy
import torch

from lib.errors import Stop
from lib.recipes import Parts
from lib.recipes.vggt_eth3d import geometry
from lib.recipes.vggt_eth3d.config import PATCH_PX, Config
from lib.run import atomic, write_text

PHOTOS = (".jpg", ".jpeg", ".png")
CONFIDENT_SHARE = 0.5
MOST_POINTS = 400_000


def predict(cfg: Config, parts: Parts, inputs: Path, out: Path) -> None:
    names, images = photographs(cfg, inputs)  # (s, 3, h, w)
    found = run(parts.modules["vggt"], images)
    height, width = images.shape[-2:]
    cameras = geometry.decode_cameras(found["pose_enc"], height, width)
    depth, confidence = found["depth"][..., 0], found["depth_conf"]
    write_maps(out, names, depth, confidence)
    write_model(out / "sparse", names, *cameras, height, width)
    points = geometry.world_points_from_depth(depth[None], cameras[0][None], cameras[1][None])[0]
    write_cloud(out / "points.ply", points, images, confidence)
    write_montage(out / "montage.png", names, images, depth, confidence)


def photographs(cfg: Config, folder: Path) -> tuple[list[str], torch.Tensor]:
    """Every photo of the folder as RGB in 0..1, cut at the centre to the first one's shape at network width."""
    from PIL import Image, ImageOps

    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in PHOTOS) if folder.is_dir() else []
    if not paths:
        raise Stop(f"{folder} holds no photos ({', '.join(PHOTOS)})", "give a folder of photos to --predict")
    width, height, pictures = cfg.model.image_width_px, 0, []
    for path in paths:
        try:
            with Image.open(path) as file:
                photo = ImageOps.exif_transpose(file).convert("RGB")
        except OSError as error:
            raise Stop(f"{path} cannot be decoded: {error}", "take it out of the folder") from error
        height = height or max(PATCH_PX, min(width, round(photo.height * width / photo.width / PATCH_PX) * PATCH_PX))
        pictures.append(numpy.asarray(ImageOps.fit(photo, (width, height), Image.Resampling.BICUBIC), numpy.float32) / 255)
    return [path.stem for path in paths], torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def run(network: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """All views at once; when memory is short, chunks that share the first view, so that all live in one world."""
    device, views = network.aggregator.camera_token.device, len(images)
    while True:
        try:
            chunks = [[0, *range(start, min(start + views - 1, len(images)))] for start in range(1, max(2, len(images)), max(1, views - 1))]
            found = [{key: value[0].float().cpu() for key, value in network(images[chunk][None].to(device)).items() if key in ("pose_enc", "depth", "depth_conf")} for chunk in chunks]
            return {key: torch.cat([found[0][key], *(one[key][1:] for one in found[1:])]) for key in found[0]}
        except torch.OutOfMemoryError:
            if views <= 2:
                raise Stop("two views do not fit into memory", "use a smaller model.image_width_px") from None
            views = max(2, views // 2)
            print(f"out of memory: going on with {views} views at a time")


def write_maps(out: Path, names: list[str], depth: torch.Tensor, confidence: torch.Tensor) -> None:
    from PIL import Image

    near, far = limits(depth)
    for name, metres, sure in zip(names, depth, confidence, strict=True):
        for kind, values in (("depth", metres), ("confidence", sure)):
            with atomic(out / f"{name}.{kind}.npy") as temporary, open(temporary, "wb") as file:
                numpy.save(file, values.numpy(), allow_pickle=False)
        with atomic(out / f"{name}.depth.png") as temporary:
            Image.fromarray(coloured(metres, near, far)).save(temporary, format="PNG")


def limits(depth: torch.Tensor) -> tuple[float, float]:
    return tuple(numpy.percentile(depth.numpy(), (2, 98)))


def coloured(values: torch.Tensor, low: float, high: float) -> Any:
    """(h, w, 3) uint8"""
    from matplotlib import colormaps

    return (colormaps["turbo"](((values.numpy() - low) / max(high - low, 1e-9)).clip(0, 1))[..., :3] * 255).astype(numpy.uint8)


def write_model(folder: Path, names: list[str], cam_from_world: torch.Tensor, intrinsics: torch.Tensor, height_px: int, width_px: int) -> None:
    """COLMAP's text format (colmap.github.io/format.html); pixel centres at +0.5, quaternions scalar first."""
    cameras, images = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"], ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; an empty line follows"]
    quaternions = geometry.quaternion_from_rotation(cam_from_world[..., :3])
    for number, name in enumerate(names, 1):
        k, (x, y, z, w), t = intrinsics[number - 1], quaternions[number - 1].tolist(), cam_from_world[number - 1, :, 3].tolist()
        cameras.append(f"{number} PINHOLE {width_px} {height_px} {k[0, 0]:.6f} {k[1, 1]:.6f} {k[0, 2]:.6f} {k[1, 2]:.6f}")
        images += [" ".join(map(str, (number, w, x, y, z, *t, number, name))), ""]
    write_text(folder / "cameras.txt", "\n".join(cameras) + "\n")
    write_text(folder / "images.txt", "\n".join(images) + "\n")
    write_text(folder / "points3D.txt", "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]\n")


def write_cloud(path: Path, points: torch.Tensor, images: torch.Tensor, confidence: torch.Tensor) -> None:
    """Binary PLY of the most confident pixels, thinned evenly to MOST_POINTS."""
    keep = (confidence >= confidence.flatten().kthvalue(max(1, round((1 - CONFIDENT_SHARE) * confidence.numel()))).values).numpy()
    xyz = points.numpy()[keep].astype("<f4")
    rgb = (images.permute(0, 2, 3, 1).numpy()[keep] * 255).astype("u1")
    thin = slice(None, None, -(-len(xyz) // MOST_POINTS))
    table = numpy.empty(len(xyz[thin]), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    table["xyz"], table["rgb"] = xyz[thin], rgb[thin]
    header = "ply\nformat binary_little_endian 1.0\n" + f"element vertex {len(table)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue")) + "end_header\n"
    with atomic(path) as temporary:
        temporary.write_bytes(header.encode() + table.tobytes())


def write_montage(path: Path, names: list[str], images: torch.Tensor, depth: torch.Tensor, confidence: torch.Tensor) -> None:
    """One column per photo (at most eight): photo, depth, confidence."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = range(min(8, len(names)))
    figure, axes = plt.subplots(3, len(shown), figsize=(2.2 * len(shown), 5.4), layout="constrained", squeeze=False)
    near, far = limits(depth)
    for column in shown:
        axes[0, column].imshow(images[column].permute(1, 2, 0).numpy())
        axes[0, column].set_title(names[column][:18], fontsize=8)
        deep = axes[1, column].imshow(depth[column].numpy(), cmap="turbo", vmin=near, vmax=far)
        sure = axes[2, column].imshow(confidence[column].numpy(), cmap="viridis", vmin=1, vmax=float(confidence.quantile(0.98) if confidence.numel() < 1e7 else confidence.max()))
    for axis in axes.flat:
        axis.set_axis_off()
    figure.colorbar(deep, ax=axes[1], label="depth (scene units)")
    figure.colorbar(sure, ax=axes[2], label="confidence")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
