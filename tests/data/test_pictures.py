"""One file becomes one array by the stated rule, whatever its mode, its turn and its damage."""

import io
import struct
import zlib

import numpy as np
import pytest
from made_images import picture
from PIL import Image, ImageCms

from fasttrain.data import depths, pictures
from fasttrain.data.pictures import Unusable


def packed(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def pixels(file, side=8, **options):
    return pictures.pixels(pictures.opened(file), side, **options)


MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA")
MODES += ("RGBX", "RGBa", "La", "I;16", "I;16L", "I;16B", "I;16N")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode):
    """An image in memory: not every mode has a file format."""
    height, width = 12, 20
    image = Image.frombytes(mode, (width, height), bytes(8 * height * width)[: _size(mode)])
    found = pictures.pixels(image, 8)
    assert found.shape == (8, 8, 3)
    assert found.dtype == np.uint8


def _size(mode):
    """Bytes of an image of 20 x 12."""
    if mode == "1":
        return 12 * 3
    each = {"L": 1, "P": 1, "I": 4, "F": 4, "LA": 2, "PA": 2, "La": 2, "RGB": 3, "LAB": 3, "HSV": 3}
    each |= {"YCbCr": 3}
    return 12 * 20 * (2 if mode.startswith("I;16") else each.get(mode, 4))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP", "BMP"])
def test_what_files_hold_is_pillows_plain_conversion(mode, kind):
    image = picture(3, height=9, width=9).convert(mode)
    try:
        file = packed(image, kind)
    except OSError:
        assert (kind, mode) in {
            ("PNG", "CMYK"),
            *((kind, mode) for kind in ("JPEG", "BMP") for mode in ("P", "RGBA", "LA", "CMYK")),
        }
        return
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    assert (pixels(file, 9) == expected).all()


def test_sixteen_bits_are_scaled_and_not_clipped():
    values = np.array([[0, 1, 128, 129, 257, 32768, 65535, 65406]], np.uint16).repeat(8, axis=0)
    for kind in ("PNG", "TIFF"):
        found = pixels(packed(Image.fromarray(values), kind))
        assert found[0, :, 0].tolist() == [0, 0, 0, 1, 1, 128, 255, 254]
    # The control: Pillow's own conversion.
    clipped = np.asarray(Image.open(packed(Image.fromarray(values))).convert("RGB"))
    assert clipped[0, :, 0].tolist() != found[0, :, 0].tolist()


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.0, 1.0, None), (0.0, 255.0, None), (-1.0, 1.0, "outside"), (0.0, np.nan, "outside")],
)
def test_floats_are_taken_in_two_ranges_and_refused_outside(low, high, said):
    values = np.full((8, 8), low, np.float32)
    values[4:] = high
    if said:
        with pytest.raises(Unusable, match=said):
            pixels(packed(Image.fromarray(values), "TIFF"))
    else:
        found = pixels(packed(Image.fromarray(values), "TIFF"))
        assert (found[0], found[7]) == pytest.approx((0, 255))


def test_integers_outside_sixteen_bits_are_refused():
    values = np.full((8, 8), 70_000, np.int32)
    with pytest.raises(Unusable, match="integers outside"):
        pixels(packed(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("part", [7, 40, 10_000])
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_large_depths_are_scaled_in_parts_that_do_not_show(kind, part, monkeypatch):
    """A row of 9 in parts of 7, four rows of it, and the whole."""
    monkeypatch.setattr(depths, "PART", part)
    values = np.random.default_rng(0).random((11, 9)) * (1 if kind is np.float32 else 65535)
    values = values.astype(kind)
    scaled = np.rint(values.astype(np.float64) * (255 if kind is np.float32 else 255 / 65535))
    assert (np.asarray(depths.eight_bits(Image.fromarray(values))) == scaled).all()
    if kind is not np.uint16:
        values[10, 8] = -1
        with pytest.raises(Unusable, match="outside 0 to"):
            depths.eight_bits(Image.fromarray(values))


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_every_exif_turn_is_set_upright(turn, kind):
    image = picture(1, height=16, width=8)
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = turn
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = np.asarray(Image.open(packed(image, kind, **options)).convert("RGB"))
    file = packed(image, kind, exif=exif, **options)
    opened = pictures.opened(file)
    height, width, _, note = pictures.header(opened)
    upright = TURNS[turn](plain)
    assert (height, width) == upright.shape[:2]
    assert note == ("" if turn == 1 else f"EXIF {turn}")
    assert (pixels(file, 16, fit="squash") == _squashed(upright, 16)).all()
    # The control: what the file holds is another picture than the one to be seen.
    assert turn == 1 or (pixels(file, 16, fit="squash") != _squashed(plain, 16)).any()


def _squashed(array, side):
    return np.asarray(Image.fromarray(array).resize((side, side), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\xff" * 99]
)
def test_damaged_exif_leaves_a_good_image_good(exif):
    file = packed(picture(1, height=8, width=8), "JPEG", exif=exif)
    with pictures.quiet():
        assert pictures.header(pictures.opened(file)) == (8, 8, "RGB", "")
        assert pixels(file).shape == (8, 8, 3)


def test_crop_takes_the_centred_square_squash_all_and_pad_adds_black():
    array = np.zeros((40, 80, 3), np.uint8)
    array[:, :20], array[:, 20:60], array[:, 60:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    file = packed(Image.fromarray(array))
    assert (pixels(file, 20, fit="crop") == (0, 255, 0)).all()
    squashed = pixels(file, 20, fit="squash")
    assert (squashed[:, :4] == (255, 0, 0)).all()
    assert (squashed[:, -4:] == (0, 0, 255)).all()
    padded = pixels(file, 20, fit="pad")
    assert (padded[:5] == 0).all()
    assert (padded[15:] == 0).all()
    assert (padded[5:15] == np.asarray(Image.fromarray(array).resize((20, 10), 2))).all()


@pytest.mark.parametrize("fit", pictures.FITS)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2), (1, 1000)])
def test_the_smallest_and_the_longest_images_have_pixels_too(fit, size):
    assert pixels(packed(picture(1, height=size[0], width=size[1])), 32, fit=fit).shape == (
        32,
        32,
        3,
    )


def test_large_images_are_made_small_with_antialiasing():
    """Stripes of one pixel become gray; by taking every 16th pixel they would stay black."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, 1::2] = 255
    found = pixels(packed(Image.fromarray(stripes)), 16).astype(int)
    assert (abs(found - 128) <= 3).all()
    assert (stripes[::16, ::16] == 0).all()


@pytest.mark.parametrize(
    ("median", "side"),
    [(1, 32), (28, 32), (63, 32), (64, 64), (127, 64), (128, 128), (223.5, 128), (224, 224)],
)
def test_the_automatic_side_never_enlarges_the_median_image(median, side):
    assert pictures.auto_side(np.array([1, median, 100_000])) == side


def bomb(width, height):
    """A PNG that says it has so many pixels, and has none."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", data), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    made = (
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(made))


@pytest.mark.parametrize("size", [(10_001, 10_000), (14_000, 13_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header(size, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
    with pictures.quiet(), pytest.raises(Unusable, match="more than 100 megapixels"):
        pictures.opened(bomb(*size))
    with pictures.quiet():  # a hundred themselves are none
        assert pictures.opened(bomb(10_000, 10_000)).size == (10_000, 10_000)


GOOD = {kind: packed(picture(7, height=30, width=30), kind).getvalue() for kind in pictures.FORMATS}


@pytest.mark.parametrize("kind", GOOD)
def test_damaged_files_are_refused_with_a_reason_or_read(kind):
    random = np.random.default_rng(0)
    data, reasons = GOOD[kind], []
    for number in range(150):
        damaged = bytearray(data)
        if number % 2:
            damaged = damaged[: random.integers(len(data))]
        for _ in range(number % 5 if damaged else 0):
            damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        try:
            with pictures.quiet():
                image = pictures.opened(io.BytesIO(damaged))
                height, width, *_ = pictures.header(image)
                assert height * width <= pictures.MOST_PIXELS
                assert pictures.pixels(image, 8).shape == (8, 8, 3)
        except Unusable as error:
            reasons.append(str(error))
    assert len(reasons) > 30
    assert all(reasons)
    assert not any("\n" in reason for reason in reasons)


def test_lab_becomes_the_colours_that_it_stands_for():
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    plain = Image.new("RGB", (8, 8), (200, 100, 50))
    image = ImageCms.applyTransform(plain, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    found = pixels(packed(image, "TIFF")).astype(int)
    assert (abs(found - (200, 100, 50)) <= 3).all()
