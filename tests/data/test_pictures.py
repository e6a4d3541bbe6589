import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lib.data import pictures
from lib.data.pictures import MOST_PIXELS, Unreadable

STORED = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
UPRIGHT = {  # EXIF orientation -> the picture as it was seen, of the stored one (h, w, 3)
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: a[:, ::-1].swapaxes(0, 1),
}  # fmt: skip


def encoded(image, kind, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = value
    return exif


def png(width, height, depth, colour, rows, *chunks):
    """Bytes of a PNG from packed rows: Pillow writes neither 2 and 4 bits of grey nor 16 bits of colour."""
    body = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *chunks]
    body += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    signed = [(kind + data, len(data)) for kind, data in body]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", length) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk, length in signed
    )


def tiff(bits, content, photometric=1, order="<", **tags):
    """Bytes of a TIFF of one row with one value a pixel: Pillow writes neither 12 bits nor white as 0."""
    width = len(content) * 8 // bits
    named = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1, 279: len(content)}
    named |= {int(name[1:]): value for name, value in tags.items()}
    named[273] = 8 + 2 + 12 * (len(named) + 1) + 4  # where the values begin
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, named[tag], 0) for tag in sorted(named))
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "IH", 8, len(named)) + entries + struct.pack(order + "I", 0) + content


def read(source, upright=False):
    return np.asarray(pictures.read(source, upright=upright))


def grey(source):
    """The values of a picture's first row; fails where it is not grey."""
    found = read(source)
    assert (found == found[..., :1]).all()
    return found[0, :, 0].tolist()


# ---------------------------------------------------------------------------------------------- modes


def one_pixel(mode, value):
    image = Image.new(mode, (1, 1))
    if mode in ("La", "RGBa"):  # putpixel would premultiply
        image = Image.merge(mode, [Image.new("L", (1, 1), channel) for channel in value])
    elif mode in ("P", "PA"):
        image.putpalette([0, 0, 0, 10, 20, 30])
        image.putpixel((0, 0), value)
    else:
        image.putpixel((0, 0), value)
    return image


def over_white(colour, alpha):
    return [round((value * alpha + 255 * (255 - alpha)) / 255) for value in colour]


def cmyk(cyan, magenta, yellow, black):
    return [round((255 - ink) * (255 - black) / 255) for ink in (cyan, magenta, yellow)]


def ycbcr(y, cb, cr):  # JFIF
    return [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]


MODES = [
    ("1", 1, [255] * 3, 0), ("L", 77, [77] * 3, 0), ("LA", (77, 100), over_white([77] * 3, 100), 0),
    ("La", (50, 128), [50 + 127] * 3, 1), ("P", 1, [10, 20, 30], 0),
    ("PA", (1, 100), over_white([10, 20, 30], 100), 0), ("RGB", (10, 20, 30), [10, 20, 30], 0),
    ("RGBA", (10, 20, 30, 200), over_white([10, 20, 30], 200), 0), ("RGBA", (10, 20, 30, 0), [255] * 3, 0),
    ("RGBa", (5, 10, 15, 128), [5 + 127, 10 + 127, 15 + 127], 1), ("RGBX", (10, 20, 30, 0), [10, 20, 30], 0),
    ("CMYK", (10, 20, 30, 40), cmyk(10, 20, 30, 40), 0), ("YCbCr", (100, 120, 140), ycbcr(100, 120, 140), 1),
    ("HSV", (0, 255, 200), [200, 0, 0], 0), ("LAB", (128, 128, 128), [119] * 3, 1),  # L* 50 without colour
    ("I;16", 1000, [round(1000 / 257)] * 3, 0), ("I;16B", 1000, [round(1000 / 257)] * 3, 0),
    ("I", 1, [255] * 3, 0), ("F", 0.25, [round(0.25 * 255)] * 3, 0),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "value", "due", "tolerance"), MODES, ids=[f"{row[0]}-{row[1]}" for row in MODES])
def test_every_mode_becomes_the_colour_that_its_formula_gives(mode, value, due, tolerance):
    found = pictures.rgb(one_pixel(mode, value))
    assert (found.mode, found.size) == ("RGB", (1, 1))
    assert np.abs(np.array(found.getpixel((0, 0))) - due).max() <= tolerance


def test_adobe_jpeg_in_cmyk_is_not_inverted():
    found = read(encoded(Image.new("CMYK", (8, 8), (10, 20, 30, 40)), "JPEG", quality=100))
    assert np.abs(found - np.array(cmyk(10, 20, 30, 40))).max() <= 1


# ---------------------------------------------------------------------------------------------- more than 8 bits

LEVELS = np.array([[0, 128, 129, 255, 256, 20_000, 32_896, 65_406, 65_535]], np.uint16)
DEEP = Image.fromarray(LEVELS)
SIXTEEN_BITS = {
    "png": encoded(DEEP, "PNG"), "tiff": encoded(DEEP, "TIFF"), "lzw": encoded(DEEP, "TIFF", compression="tiff_lzw"),
    "tiff-big-endian": tiff(16, LEVELS.astype(">u2").tobytes(), order=">"),
    "pgm": b"P5 9 1 65535\n" + LEVELS.astype(">u2").tobytes(), "jpeg2000": encoded(DEEP, "JPEG2000"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SIXTEEN_BITS)
def test_16_bits_are_divided_by_257_and_rounded(kind):
    assert grey(SIXTEEN_BITS[kind]) == np.round(LEVELS[0] / 257).astype(int).tolist()


def test_of_16_bit_colour_the_upper_byte_is_kept():
    values = np.array([0x12FF, 0x8000, 0xFFFF], ">u2").tobytes()
    assert read(png(1, 1, 16, 2, [values])).tolist() == [[[0x12, 0x80, 0xFF]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "colour"])
def test_12_bits_in_a_file_of_16_are_not_read_as_black(kind):
    """Cameras write 10 and 12 bits so, and others the 8 of a picture; what is scaled, or of one colour, is read."""
    for most, is_refused in ((300, True), (1023, True), (4095, True), (8000, False), (65535, False)):
        values = np.linspace(0, most, 64).astype(np.uint16).reshape(8, 8)
        rows = [np.repeat(row, 3).astype(">u2").tobytes() for row in values]
        content = png(8, 8, 16, 2, rows) if kind == "colour" else encoded(Image.fromarray(values), kind)
        if is_refused:
            with pytest.raises(Unreadable, match="the lower 12 at most are used"):
                read(content)
        else:
            assert read(content).max() == (most >> 8 if kind == "colour" else round(most / 257))
    assert grey(encoded(Image.fromarray(np.full((8, 8), 900, np.uint16)), "PNG"))[0] == 4


def test_12_bits_and_white_stored_as_0():
    assert grey(tiff(12, bytes([0xFF, 0xF8, 0x00]))) == [255, round(0x800 / 4095 * 255)]
    assert grey(tiff(8, bytes([0, 5, 255]), photometric=0)) == [255, 250, 0]
    assert grey(tiff(16, np.array([0, 257 * 5, 65535], "<u2").tobytes(), photometric=0)) == [255, 250, 0]
    assert grey(tiff(32, np.array([0, 0.2, 1], "<f4").tobytes(), photometric=0, t339=3)) == [255, 255 - 51, 0]


def test_float_and_32_bit_pictures_within_0_and_1_are_scaled():
    values = np.array([0, 0.1, 0.5, 1], "<f4")
    for file in (encoded(Image.fromarray(values[None]), "TIFF"), b"Pf\n4 1\n-1.0\n" + values.tobytes()):
        assert grey(file) == [0, 26, 128, 255]  # 25.5 and 127.5 are rounded up
    assert grey(tiff(32, np.array([0, 1], "<u4").tobytes())) == [0, 255]


REFUSED = {
    "float": (tiff(32, np.array([-3, 200.5], "<f4").tobytes(), t339=3), "float values go from -3 to 200.5; only"),
    "infinite": (tiff(32, np.array([0, np.inf], "<f4").tobytes(), t339=3), "float values go from 0 to inf"),
    "nan": (tiff(32, np.array([0.5, np.nan], "<f4").tobytes(), t339=3), "float values include NaN"),
    "unsigned": (tiff(32, np.array([5, 2**32 - 1], "<u4").tobytes()), "whole-number values go from 5 to 4294967295"),
    "signed-32": (tiff(32, np.array([-5, 1], "<i4").tobytes(), t339=2), "whole-number values go from -5 to 1;"),
    "signed-16": (tiff(16, np.array([-5, 900], "<i2").tobytes(), t339=2), "whole-number values go from -5 to 900"),
    "signed-8": (tiff(8, np.array([-5, 9], "i1").tobytes(), t339=2), "signed 8-bit"),
    "float-64": (tiff(64, np.array([0, 0.5], "<f8").tobytes(), t339=3), r"no format or depth that can be read \(JPEG,"),
    "text": (b"no picture at all", r"no format or depth that can be read \(JPEG,"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "no format or depth"),
    "empty": (b"", "^the file is empty$"),
    "cut": (encoded(Image.fromarray(STORED), "PNG")[:90], "cannot be decoded.*truncated"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_said_in_one_sentence(kind):
    content, sentence = REFUSED[kind]
    with pytest.raises(Unreadable, match=sentence) as refusal:
        read(content)
    assert "\n" not in str(refusal.value) and "0x" not in str(refusal.value)


def test_a_path_reads_as_its_bytes_do_and_its_faults_are_sentences(tmp_path):
    content = encoded(Image.fromarray(STORED), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    assert (read(tmp_path / "a.png") == STORED).all() and (read(content) == STORED).all()
    with pytest.raises(Unreadable, match="the file is missing"):
        pictures.header(tmp_path / "b.png", upright=True)
    with pytest.raises(Unreadable, match=r"cannot be decoded \(.*directory"):
        read(tmp_path)


# ---------------------------------------------------------------------------------------------- transparency


def transparent(number):
    return b"tRNS", struct.pack(">H", number)


COLOURS = (b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
ONE_TRANSPARENT = {  # the first of two pixels, and what the second one is
    "1-bit": (png(2, 1, 1, 0, [b"\x80"], transparent(1)), [0] * 3),
    "2-bit": (png(2, 1, 2, 0, [b"\x90"], transparent(2)), [85] * 3),
    "4-bit": (png(2, 1, 4, 0, [b"\x78"], transparent(7)), [0x88] * 3),
    "8-bit": (png(2, 1, 8, 0, [b"\x05\x06"], transparent(5)), [6] * 3),
    "16-bit": (png(2, 1, 16, 0, [b"\x80\x81\x80\x82"], transparent(0x8081)), [round(0x8082 / 257)] * 3),
    "colour": (png(2, 1, 8, 2, [bytes([5, 6, 7, 8, 9, 10])], (b"tRNS", bytes([0, 5, 0, 6, 0, 7]))), [8, 9, 10]),
    "16-bit-colour": (png(2, 1, 16, 2, [b"123456" + b"789abc"], (b"tRNS", b"123456")), list(b"79b")),
    "palette": (png(2, 1, 8, 3, [b"\0\1"], COLOURS, (b"tRNS", b"\0")), [40, 50, 60]),
    "palette-alphas": (png(2, 1, 8, 3, [b"\0\1"], COLOURS, (b"tRNS", b"\0\x64")), over_white([40, 50, 60], 100)),
    "gif": (encoded(Image.open(io.BytesIO(png(2, 1, 8, 3, [b"\0\1"], COLOURS))), "GIF", transparency=0), [40, 50, 60]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ONE_TRANSPARENT)
@pytest.mark.parametrize("upright", [True, False])
def test_a_transparent_colour_becomes_white_and_no_other_one_does(kind, upright):
    content, other = ONE_TRANSPARENT[kind]
    assert read(content, upright).tolist() == [[[255] * 3, other]]


def test_what_lies_beneath_is_not_seen():
    hidden = Image.fromarray(np.dstack([STORED, np.zeros((5, 7), np.uint8)]))
    assert (read(encoded(hidden, "PNG")) == pictures.BACKGROUND).all()


def test_a_colour_profile_is_not_saved_along():
    found = pictures.read(encoded(Image.fromarray(STORED), "PNG", icc_profile=b"profile"), upright=False)
    assert Image.open(io.BytesIO(encoded(found, "PNG"))).info == {}


# ---------------------------------------------------------------------------------------------- orientation, frames


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_the_callers_choice(kind, number):
    settings = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(STORED), kind, exif=orientation(number), **settings)
    for upright, due in ((False, STORED), (True, UPRIGHT[number](STORED))):
        assert np.array_equal(read(content, upright), due)
        assert pictures.header(content, upright=upright)[:2] == (due.shape[1], due.shape[0])


@pytest.mark.parametrize("number", [0, 9, 300])
def test_an_orientation_that_does_not_exist_is_none(number):
    assert np.array_equal(read(encoded(Image.fromarray(STORED), "PNG", exif=orientation(number)), True), STORED)


def test_a_large_jpeg_is_decoded_small_but_never_too_small():
    content = encoded(Image.new("RGB", (800, 400), "red"), "JPEG", exif=orientation(6))
    sizes = {(50, 100): (50, 100), (51, 100): (100, 200), (400, 100): (400, 800), (900, 900): (400, 800)}
    for least, size in sizes.items():
        assert pictures.read(content, upright=True, at_least=least).size == size
    assert pictures.read(content, upright=False, at_least=(100, 50)).size == (100, 50)
    assert pictures.header(content, upright=True)[:4] == (400, 800, "RGB", False)


@pytest.mark.parametrize(
    ("kind", "several"), [("GIF", True), ("PNG", True), ("TIFF", True), ("WEBP", True), ("MPO", False)]
)
def test_the_first_of_several_frames_is_read(kind, several):
    frames = [Image.new("RGB", (16, 8), colour) for colour in ("white", "red")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert (read(content) == 255).all() and read(content).shape == (8, 16, 3)
    assert pictures.header(content, upright=False).several is several
    assert not pictures.header(encoded(frames[0], "JPEG" if kind == "MPO" else kind), upright=False).several


def test_a_damaged_second_frame_does_not_cost_the_first():
    frames = [Image.new("RGB", (16, 8), colour) for colour in ("white", "red")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    content = content[: content.rindex(b",") + 5]  # within the second frame's header
    assert (read(content) == 255).all()
    assert pictures.header(content, upright=False)[:4] == (16, 8, "P", False)


# ---------------------------------------------------------------------------------------------- limits


def declared(width, height):
    return png(width, height, 8, 2, [b""])


@pytest.mark.parametrize("pillow_limit", [Image.MAX_IMAGE_PIXELS, None])
@pytest.mark.parametrize("size", [(14_000, 14_000), (16_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_whatever_pillows_own_limit_is(monkeypatch, size, pillow_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    for call in (pictures.read, pictures.header):
        with pytest.raises(Unreadable, match="more than 160 million pixels, too large"):
            call(declared(*size), upright=False)


def test_a_side_that_no_picture_has_is_refused_before_memory_is_taken():
    """One pixel by 134 million: Pillow took a gigabyte for 82 bytes."""
    head = b"BM" + struct.pack("<IIIIiiHHIIiiII", 82, 0, 62, 40, 1, 134_217_744, 1, 1, 0, 0, 0, 0, 2, 0) + bytes(28)
    for call in (pictures.header, pictures.read):
        with pytest.raises(Unreadable, match="it is 1 x 134217744 px, as no picture is"):
            call(head, upright=False)


def test_the_largest_camera_passes_without_a_warning(recwarn, monkeypatch):
    assert pictures.header(declared(14_204, 10_652), upright=False)[:2] == (14_204, 10_652)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # then 35 pixels are what 151 million are to the real limit
    assert (read(encoded(Image.fromarray(STORED), "PNG")) == STORED).all()
    assert not recwarn.list and MOST_PIXELS > 14_204 * 10_652


def test_a_picture_of_one_colour_is_refused_and_one_deviating_pixel_is_not():
    image = Image.new("RGB", (40, 30), (7, 8, 9))
    with pytest.raises(Unreadable, match="picture of one colour"):
        pictures.refuse_one_colour(image)
    image.putpixel((39, 29), (7, 8, 10))
    pictures.refuse_one_colour(image)


# ---------------------------------------------------------------------------------------------- damage

NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 17, 3), dtype=np.uint8)).resize((47, 31))
WHOLE = {
    "jpeg": encoded(NOISE, "JPEG", exif=orientation(6)), "progressive": encoded(NOISE, "JPEG", progressive=True),
    "mpo": encoded(NOISE, "MPO", save_all=True, append_images=[NOISE]),
    "png": encoded(NOISE, "PNG", exif=orientation(6)),
    "png-16": encoded(Image.fromarray(np.asarray(NOISE)[..., 0] * np.uint16(257)), "PNG", transparency=5),
    "gif": encoded(NOISE.convert("P"), "GIF", save_all=True, append_images=[NOISE.rotate(90)]),
    "tiff": encoded(NOISE, "TIFF", exif=orientation(6)), "tiff-float": encoded(NOISE.convert("F"), "TIFF"),
    "tiff-deflate": encoded(NOISE.convert("P"), "TIFF", compression="tiff_adobe_deflate"),
    "webp": encoded(NOISE, "WEBP", exif=orientation(6)), "webp-lossless": encoded(NOISE, "WEBP", lossless=True),
    "bmp": encoded(NOISE, "BMP"), "ppm": encoded(NOISE, "PPM"), "jpeg2000": encoded(NOISE, "JPEG2000"),
}  # fmt: skip


def damaged(content, rng):
    """Copies of a file: cut at about 60 places, with a few other bytes, with a part of zeros, with a run of 0xff."""
    yield from (content[:cut] for cut in range(0, len(content), max(1, len(content) // 60)))
    for number in range(150):
        copy = bytearray(content)
        reach = (64, 400, len(copy))[number % 3]  # headers are short, and most of what can break is in them
        for place in rng.integers(0, min(reach, len(copy)), rng.integers(1, 6)):
            copy[place] = rng.integers(256)
        yield bytes(copy)
    for number in range(60):
        start, length = rng.integers(len(content)), rng.integers(4, 200)
        yield content[:start] + bytes([0, 0xFF][number % 2 :][:1]) * length + content[start + length :]


@pytest.mark.parametrize("kind", WHOLE)
def test_damage_ends_as_unreadable_and_as_nothing_else(kind, recwarn, capsys):
    rng, refused, count = np.random.default_rng(2), 0, 0
    for content in damaged(WHOLE[kind], rng):
        for upright in (True, False):
            count += 1
            try:
                found = pictures.read(content, upright=upright)
                assert pictures.header(content, upright=upright)[:2] == found.size and found.mode == "RGB"
            except Unreadable as error:
                refused += 1
                assert 10 < len(str(error)) < 300 and "\n" not in str(error)
    assert count // 10 < refused <= count
    assert not recwarn.list and capsys.readouterr().err == ""


@pytest.mark.parametrize("length", [1, 100, 5000])
def test_noise_is_no_picture(length):
    rng = np.random.default_rng(length)
    for _ in range(50):
        with pytest.raises(Unreadable):
            read(rng.bytes(length))


def test_warnings_of_others_are_still_heard():
    read(SIXTEEN_BITS["png"])
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_importing_is_cheap_and_a_refusal_prints_nothing():
    """In a process of its own: under pytest, the logging module has a handler for what Pillow reports."""
    code = """if True:
        import sys
        from lib.data import pictures
        assert not {"PIL", "numpy"} & set(sys.modules)
        try:
            pictures.read(bytes.fromhex(sys.argv[1]), upright=True)
        except pictures.Unreadable:
            print("refused")
    """
    command = [sys.executable, "-c", code, tiff(8, b"1234", t277=2048).hex()]  # Pillow logs an error: too many samples
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("refused\n", "")
