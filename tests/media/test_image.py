"""Reading pictures of every kind, and the geometry of the reference."""

import errno
import io
import os

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from dispose_jax.media import image, output
from tests.media import pictures
from tests.media.films import CASES

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (40, 56, 3), np.uint8)


def test_a_png_reads_back_as_it_was_written(tmp_path):
    image.write_png(tmp_path / "a.png", PICTURE)
    np.testing.assert_array_equal(image.read(tmp_path / "a.png"), PICTURE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_size_is_told_by_the_header_alone(tmp_path):
    image.write_png(tmp_path / "a.png", PICTURE)
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    assert image.dimensions(tmp_path / "a.png") == (40, 56)
    assert image.dimensions(tmp_path / "cut.png") == (40, 56)
    assert image.dimensions(tmp_path / "text.png") is None


@pytest.mark.parametrize(("widest", "size"), [(100, (40, 56)), (28, (20, 28))])
def test_pictures_to_be_looked_at_are_reduced(widest, size):
    smooth = np.linspace(0, 255, 40 * 56 * 3).reshape(40, 56, 3).astype(np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(image.as_jpeg(smooth, widest))))
    assert shown.shape == (*size, 3)
    assert abs(shown.mean() - smooth.mean()) < 2


@pytest.mark.parametrize(("tag", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_pictures_are_turned_as_their_exif_orientation_says(tmp_path, tag, turns):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(image.read(tmp_path / "a.png"), np.rot90(PICTURE, turns))


def test_transparent_parts_become_white(tmp_path):
    rgba = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    rgba[:20, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    result = image.read(tmp_path / "a.png")
    assert (result[:20] == 255).all()
    np.testing.assert_array_equal(result[20:], PICTURE[20:])


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    indices = (PICTURE[..., 0] % 2).astype(np.uint8)
    paletted = Image.fromarray(indices, mode="P")
    paletted.putpalette([10, 20, 30, 200, 100, 50])
    paletted.save(tmp_path / "a.png", transparency=0)
    expected = np.where(indices[..., None] == 0, 255, np.array([200, 100, 50]))
    np.testing.assert_array_equal(image.read(tmp_path / "a.png"), expected)


def test_grey_pictures_become_rgb(tmp_path):
    Image.fromarray(PICTURE[..., 0]).save(tmp_path / "a.png")
    expected = np.repeat(PICTURE[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(image.read(tmp_path / "a.png"), expected)


def test_sixteen_bit_pictures_keep_their_brightness(tmp_path):
    Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    expected = np.repeat(PICTURE[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(image.read(tmp_path / "a.png"), expected)


def test_a_sixteen_bit_picture_whose_zero_is_white_is_turned_round(tmp_path):
    levels = PICTURE[..., 0].astype(np.uint16) * 257
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0  # PhotometricInterpretation: WhiteIsZero
    content = io.BytesIO()
    Image.fromarray(levels).save(content, "TIFF", tiffinfo=tags)
    data = bytearray(content.getvalue())
    (tmp_path / "a.tif").write_bytes(data)
    with Image.open(tmp_path / "a.tif") as written:
        assert written.tag_v2[262] == 0
    np.testing.assert_array_equal(image.read(tmp_path / "a.tif")[..., 0], 255 - PICTURE[..., 0])


@pytest.mark.parametrize("mode", ["LA", "I;16"])
def test_a_profile_of_grey_is_followed_whatever_the_grey_is_stored_in(tmp_path, mode):
    profile = pictures.grey_profile(1.0)
    grey = Image.fromarray(PICTURE[..., 0])
    grey.save(tmp_path / "l.png", icc_profile=profile)
    expected = image.read(tmp_path / "l.png")
    assert expected[PICTURE[..., 0] == 100].min(initial=255) > 150, "linear light of 100 is bright"
    wide = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    (wide if mode == "I;16" else grey.convert("LA")).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_array_equal(image.read(tmp_path / "a.png"), expected)


def test_cmyk_pictures_become_rgb(tmp_path):
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = image.read(tmp_path / "a.jpg")[20, 20].astype(int)
    assert red > 200 and green < 60 and blue < 60


def test_a_display_p3_profile_is_converted(tmp_path):
    with Image.open(CASES / "p3_swatch.png") as file:
        stored, profile = np.asarray(file.convert("RGB")), file.info["icc_profile"]
    result = image.read(CASES / "p3_swatch.png")
    np.testing.assert_allclose(result[16, 16], [255, 0, 0], atol=2)
    assert np.abs(result.astype(int) - stored).max() > 10
    colours = RNG.integers(90, 200, (32, 32, 3), np.uint8)
    for mode in ("RGB", "RGBA"):
        for ending in ("png", "webp", "tif"):
            path = tmp_path / f"{mode}.{ending}"
            options = {"lossless": True} if ending == "webp" else {}
            Image.fromarray(colours).convert(mode).save(path, icc_profile=profile, **options)
            expected = pictures.srgb_of_p3(colours)
            inside = ((expected > 40) & (expected < 252)).all(-1)  # of sRGB: what is not is clipped
            assert inside.mean() > 0.5
            np.testing.assert_allclose(image.read(path)[inside], expected[inside], atol=4)


def test_srgb_itself_and_profiles_that_cannot_be_used_change_nothing(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, b"no profile", srgb[:200], srgb[:-60]):
        Image.fromarray(PICTURE).save(tmp_path / "a.png", icc_profile=profile)
        np.testing.assert_array_equal(image.read(tmp_path / "a.png"), PICTURE)


def test_damaged_exif_turns_nothing(tmp_path, recwarn):
    content = io.BytesIO()
    Image.fromarray(PICTURE).save(content, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    (tmp_path / "a.png").write_bytes(content.getvalue())
    np.testing.assert_array_equal(image.read(tmp_path / "a.png"), PICTURE)
    assert not recwarn.list


def test_a_large_picture_warns_of_nothing_until_it_is_refused(tmp_path, recwarn, monkeypatch):
    image.write_png(tmp_path / "large.png", PICTURE)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PICTURE.shape[0] * PICTURE.shape[1] - 1)
    np.testing.assert_array_equal(image.read(tmp_path / "large.png"), PICTURE)
    assert image.dimensions(tmp_path / "large.png") == PICTURE.shape[:2]
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PICTURE.shape[0] * PICTURE.shape[1] // 2 - 1)
    with pytest.raises(ValueError, match="large.png: too many pixels"):
        image.read(tmp_path / "large.png")


def test_whatever_a_decoder_raises_becomes_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="damaged.avif: cannot read this picture") as error:
        image.read(CASES / "damaged.avif")
    assert "\n" not in str(error.value)
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    for kind in (RuntimeError, KeyError, OverflowError, MemoryError, AssertionError):
        monkeypatch.setattr(Image.Image, "load", lambda self, kind=kind: throw(kind))
        with pytest.raises(ValueError, match="a.png: cannot read this picture"):
            image.read(tmp_path / "a.png")


def throw(kind):
    raise kind("from the depths")


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match="nobody.png: no such picture"):
        image.read(tmp_path / "nobody.png")


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match="a.png: not a picture"):
        image.read(tmp_path / "a.png")


def test_a_postscript_program_is_not_run(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.eps")
    with pytest.raises(ValueError, match="a.eps: a PostScript program"):
        image.read(tmp_path / "a.eps")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read this picture"):
        image.read(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_pictures_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PICTURE).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=f"a.{suffix}: (not a picture|cannot read this picture)"):
        image.read(path)


def test_overwritten_bytes_never_raise_anything_but_one_sentence(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "whole.png")
    content = np.frombuffer((tmp_path / "whole.png").read_bytes(), np.uint8)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(100):
        broken = content.copy()
        places = rng.integers(0, 200, 3)  # the header and the first chunk
        broken[places] = rng.integers(0, 256, 3)
        (tmp_path / "a.png").write_bytes(broken.tobytes())
        try:
            image.read(tmp_path / "a.png")
        except ValueError as error:
            assert "a.png" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_pictures_too_small_for_a_person_are_refused(tmp_path):
    image.write_png(tmp_path / "a.png", PICTURE[:16])
    with pytest.raises(ValueError, match="56 x 16 pixels, too small"):
        image.read(tmp_path / "a.png")


def test_floating_point_pictures_are_refused(tmp_path):
    Image.fromarray(PICTURE[..., 0].astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floating-point"):
        image.read(tmp_path / "a.tif")


@pytest.mark.parametrize("resolution", [0, -64, 100, 577])
def test_resolutions_off_the_grid_are_refused(resolution):
    with pytest.raises(ValueError, match="multiples of 16"):
        image.target_size(200, 100, resolution)


def test_moores_size_is_one():
    image.check_size(784, 512)


def test_the_size_error_names_the_nearest_size():
    with pytest.raises(ValueError, match="400 x 496 is the nearest"):
        image.check_size(500, 400)


def test_a_picture_of_the_wanted_size_is_left_alone():
    np.testing.assert_array_equal(image.fit(PICTURE, 40, 56), PICTURE)


def test_fitting_keeps_the_centre_and_cuts_the_longer_side():
    picture = np.zeros((64, 192, 3), np.uint8)
    picture[:, 64:128] = PICTURE[:1, :1]
    np.testing.assert_array_equal(image.fit(picture, 64, 64), picture[:, 64:128])


def test_fitting_interpolates_linear_ramps_exactly():
    ramp = np.repeat(np.arange(0, 80, 2, dtype=np.uint8)[:, None, None], 3, axis=-1)
    ramp = np.repeat(ramp, 40, axis=1)  # (40, 40, 3), 2 levels a row
    result = image.fit(ramp, 80, 80)
    rows = (np.arange(80) + 0.5) / 2 - 0.5  # half-pixel centres
    expected = np.rint(2 * np.clip(rows, 0, 39))
    np.testing.assert_array_equal(result[:, 7, 1], expected)


@pytest.mark.parametrize(("h", "w"), [(90, 300), (300, 90), (97, 61)])
def test_points_move_with_the_picture_that_they_lie_on(h, w):
    picture = np.zeros((h, w, 3), np.uint8)
    row, column = h // 2 - 5, w // 2 + 9
    picture[row - 2 : row + 3, column - 2 : column + 3] = 255
    point = np.array([(column + 0.5) / w, (row + 0.5) / h])
    fitted = image.fit(picture, 128, 192)[..., 0].astype(float)
    rows, columns = np.mgrid[:128, :192] + 0.5
    centre = np.array([(columns * fitted).sum(), (rows * fitted).sum()]) / fitted.sum()
    scale, offset = image.fit_transform(h, w, 128, 192)
    moved = (point * scale + offset) * (192, 128)
    np.testing.assert_allclose(moved, centre, atol=0.6)


def test_extremely_narrow_pictures_cost_no_more_than_their_crop():
    wide = np.broadcast_to(PICTURE[:32, :1], (32, 60_000, 3))
    result = image.fit(wide, 576, 1024)
    assert result.shape == (576, 1024, 3)
    np.testing.assert_array_equal(result, np.broadcast_to(result[:, :1], result.shape))


def test_stretching_keeps_the_whole_picture():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 40:] = 200
    stretched = image.stretch(picture, 64, 32)
    assert stretched.shape == (64, 32, 3)
    assert (stretched[:, :12] == 0).all() and (stretched[:, 20:] == 200).all()
    np.testing.assert_array_equal(image.stretch(picture, 40, 80), picture)


@pytest.mark.parametrize(
    "shape, size, rows_first",
    [  # of pictures that Pillow 13 was watched on
        ((60, 90), (96, 128), False),  # enlarged, as small references are to 768 x 768
        ((90, 60), (64, 64), True),
        ((60, 90), (64, 64), False),
        ((90, 70), (64, 96), True),
        ((100, 90), (60, 70), False),  # 40 rows are no more than twice 20 columns
        ((101, 90), (60, 70), True),
    ],
)
def test_stretching_begins_with_the_axis_that_pillow_begins_with(shape, size, rows_first):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    lanczos = lambda picture, height, width: np.asarray(
        Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    )
    between = (size[0], shape[1]) if rows_first else (shape[0], size[1])
    expected = lanczos(lanczos(picture, *between), *size)
    np.testing.assert_array_equal(image.stretch(picture, *size), expected)
    if not rows_first:  # all versions agree
        np.testing.assert_array_equal(expected, lanczos(picture, *size))


def test_finished_frames_get_the_shape_of_the_reference_back():
    assert image.shown_size(1216, 704, 768) == (768, 444)
    assert image.shown_size(500, 301, 100) == (100, 60)
    columns = np.arange(8, dtype=np.uint8) * 20
    frame = np.broadcast_to(columns[None, :, None], (6, 8, 3))
    wider = image.bilinear(frame, 6, 16).astype(float)
    assert wider.shape == (6, 16, 3)
    np.testing.assert_allclose(wider[0, 1:-1, 0], np.arange(0.25, 7, 0.5) * 20, atol=0.5)
    np.testing.assert_array_equal(image.bilinear(frame, 6, 8), frame)
    # Every other column, nothing averaged.
    np.testing.assert_array_equal(image.bilinear(frame, 6, 4)[0, :, 0], [10, 50, 90, 130])


def test_a_failed_write_keeps_the_older_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image.write_png(path, PICTURE)

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="a.png: cannot write this file: No space left on device"):
        image.write_png(path, PICTURE[::-1])
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(image.read(path), PICTURE)


def test_json_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        output.write_json(tmp_path / "a.json", {"seconds": float("nan")})
    assert not list(tmp_path.iterdir())


def test_an_output_name_with_another_ending_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '.avi', expected .mp4"):
        output.prepare(tmp_path / "a.avi", ".mp4")


def test_the_folder_of_an_output_is_made(tmp_path):
    assert output.prepare(tmp_path / "new" / "deep" / "a.mp4", ".mp4").parent.is_dir()


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make its folder"):
        output.prepare(tmp_path / "file" / "a.mp4", ".mp4")


def test_a_folder_is_replaced_when_it_is_whole_and_only_then(tmp_path):
    folder = tmp_path / "a"
    for content in ("first", "second"):
        with output.replacing_folder(folder) as partial:
            (partial / content).write_text(content)
            assert folder.exists() == (content == "second")
        assert [path.name for path in folder.iterdir()] == [content]
    with pytest.raises(ValueError, match="halfway"):
        with output.replacing_folder(folder) as partial:
            (partial / "third").write_text("x")
            raise ValueError("halfway")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "second"]


def test_a_folder_stays_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    replace = os.replace

    def failing(source, target):
        if "partial" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        with output.replacing_folder(tmp_path / "a"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
