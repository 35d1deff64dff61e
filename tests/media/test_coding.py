"""What a picture says of its levels and Pillow leaves out."""

import struct

import numpy as np
import pytest
from PIL import Image

from dispose_jax.media import image, shown
from tests.media import pictures


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colours", [(), (3,)])
def test_a_colour_declared_transparent_becomes_white_at_every_depth(tmp_path, depth, colours):
    if colours and depth < 8:
        return  # of which PNG knows none
    levels = np.random.default_rng(depth).integers(0, 2**depth, (40, 56, *colours))
    levels[:20] = key = levels[3, 5]
    if depth == 16:  # one that differs in the lower byte alone is another colour
        levels[30:] = key ^ 1
    chunk = b"tRNS", np.array(key, ">u2").tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # what is transparent turns with the picture
    turn = b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")
    pictures.write_raw_png(tmp_path / "a.png", levels, depth, chunk, turn)
    levels, key = levels.reshape(40, 56, -1), np.reshape(key, -1)
    transparent = (levels == key).all(-1, keepdims=True)
    assert 0.4 < transparent.mean() < 0.9
    expected = np.where(transparent, 255, levels * (255 / (2**depth - 1)))
    expected = np.rot90(np.broadcast_to(expected, (40, 56, 3)), -1)
    np.testing.assert_allclose(image.read(tmp_path / "a.png"), expected, atol=1)


@pytest.mark.parametrize("transfer", [shown.PQ, shown.HLG])
@pytest.mark.parametrize("ending", ["avif", "png", "jpg"])
def test_pictures_of_high_dynamic_range_are_brought_into_srgb_as_videos_are(
    tmp_path, transfer, ending
):
    levels = np.repeat(np.linspace(20, 235, 8).astype(np.uint8), 16)[None, :, None]
    levels = np.ascontiguousarray(np.broadcast_to(levels, (64, 128, 3)))
    path = tmp_path / f"a.{ending}"
    if ending == "avif":
        pictures.write_avif(path, levels, color_trc=transfer, color_primaries=9, colorspace=9)
    elif ending == "png":
        pictures.write_raw_png(path, levels, 8, (b"cICP", bytes([9, transfer, 0, 1])))
    else:
        code = b"cicp\0\0\0\0" + bytes([9, transfer, 0, 1])
        profile = pictures.grey_profile(1.0, (b"cicp", code))
        Image.fromarray(levels[..., 0]).save(path, quality=100, icc_profile=profile)
    expected = shown.in_bt709(levels, transfer, 9)
    assert np.abs(expected.astype(int) - levels).max() > 40
    np.testing.assert_allclose(image.read(path), expected, atol=4)


def test_wide_primaries_that_an_avif_states_are_converted(tmp_path):
    colours = np.full((64, 128, 3), (120, 180, 150), np.uint8)
    pictures.write_avif(
        tmp_path / "a.avif", colours, color_trc=13, color_primaries=shown.P3, colorspace=1
    )
    expected = pictures.srgb_of_p3(colours[0, 0])
    assert np.abs(expected - colours[0, 0]).max() > 15
    # The curve is taken for BT.709's, of which sRGB's differs a little.
    np.testing.assert_allclose(image.read(tmp_path / "a.avif")[32, 64], expected, atol=7)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_phones_heic_is_told_from_what_is_no_picture(tmp_path, brand):
    head = struct.pack(">I4s4sI4s4s", 24, b"ftyp", brand, 0, b"mif1", b"heic")
    (tmp_path / "a.heic").write_bytes(head + bytes(200))
    with pytest.raises(ValueError, match="a.heic: a HEIC picture, .*save it as JPEG or PNG first"):
        image.read(tmp_path / "a.heic")
