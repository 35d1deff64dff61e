"""Pictures: reading, the geometry of the reference, writing (host code, Pillow and NumPy).

A picture is uint8 RGB, (h, w, 3), whatever the file held.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from dispose_jax.media import coding, output, shown
from dispose_jax.ops import resize

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic")
SMALLEST_SIDE = 32  # nobody can be made out in fewer pixels
GRID = 64  # latents are 1/8, their coarsest level 1/8 of that: what the released sizes divide by
CELL = 16  # pixels; points are read and written in cells of so many
SHORT_OVER_LONG = 9 / 16
PROFILED_MODES = ("RGB", "L", "CMYK")  # whose levels an ICC profile can speak of
PROFILE_ROUNDING = 2  # levels; profiles of sRGB differ from each other by as much
TIFF_MEANING, WHITE_IS_ZERO = 262, 0  # TIFF 6.0's PhotometricInterpretation
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read(path: str | os.PathLike, smallest: int = SMALLEST_SIDE) -> np.ndarray:
    """Read a picture -> uint8 RGB (h, w, 3), upright as its EXIF orientation says.

    Colours of an embedded ICC profile become sRGB, as do high dynamic range (PQ, HLG) and wide
    primaries that the file states, transparent parts white, grey RGB, 16 bits 8; of an animation
    the first frame counts. Raises ValueError if the file is missing, damaged, no picture, under
    `smallest` pixels on a side or beyond what Pillow takes for an attack.
    """
    if not Path(path).exists():
        raise ValueError(f"{path}: no such picture; check the path")
    try:
        # Pillow's warnings are for programmers; what keeps a picture from being read is raised.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            if picture.format == "EPS":  # which Pillow would run with Ghostscript
                raise _Unsuited(
                    f"{path}: a PostScript program, not a picture; save it as PNG or JPEG first"
                )
            whole = coding.with_alpha(picture, path)
            negative = getattr(picture, "tag_v2", {}).get(TIFF_MEANING) == WHITE_IS_ZERO
            stated = coding.stated(picture, path)
            size, exact = picture.size, _to_rgb(_upright(whole), path, negative, stated)
    except _Unsuited:
        raise
    except UnidentifiedImageError as error:
        if coding.is_heic(path):
            raise ValueError(
                f"{path}: a HEIC picture, which cannot be read; save it as JPEG or PNG first"
            ) from error
        raise ValueError(
            f"{path}: not a picture that can be read, expected PNG, JPEG, WebP or the like"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too many pixels for a picture; scale it down first") from error
    except OSError as error:
        reason = error.strerror or "its data is truncated or corrupt"
        raise ValueError(f"{path}: cannot read this picture: {reason}") from error
    # Damage surfaces as whatever the decoder of that format happens to raise.
    except Exception as error:
        raise ValueError(f"{path}: cannot read this picture: its data is corrupt") from error
    if min(size) < smallest:
        raise ValueError(
            f"{path}: {size[0]} x {size[1]} pixels, too small; a side needs {smallest} at least"
        )
    return exact


def dimensions(path: str | os.PathLike) -> tuple[int, int] | None:
    """Height and width that a picture's header tells, nothing decoded; None where `read` says what
    is wrong with the file."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            return picture.size[::-1]
    except Exception:  # as of `read`
        return None


def target_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width that the released pipeline gives a height x width picture.

    resolution is the short side; the long one is that of 9:16, floored to the grid of 64. A square
    picture stays square, as in DisPose (MimicMotion alone makes it landscape). Raises ValueError
    for a resolution off the grid.
    """
    check_size(resolution, resolution)
    long_side = int(resolution / SHORT_OVER_LONG // GRID) * GRID
    if height > width:
        return long_side, resolution
    if height < width:
        return resolution, long_side
    return resolution, resolution


def check_size(height: int, width: int) -> None:
    """Raise ValueError unless both sides are multiples of 16, and 64 or more.

    Where a level has an odd side the next one is rounded up, and comes back to the finer one's size
    (Moore-AnimateAnyone's 784 rows; Stable Video Diffusion's authors keep to multiples of 64).
    """
    if height < GRID or width < GRID or height % CELL or width % CELL:
        nearest = [max(GRID, round(side / CELL) * CELL) for side in (height, width)]
        raise ValueError(
            f"size {width} x {height} (width x height): sides must be multiples of {CELL}, {GRID}"
            f" or more; {nearest[1]} x {nearest[0]} is the nearest"
        )


def fit(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale a picture until it covers height x width, then cut out its centre.

    uint8 (h, w, 3) -> uint8 (height, width, 3). Bilinear with half-pixel centres, edges repeated
    and no antialiasing, then rounded to the even level, as the released pipeline does; the steps of
    the arithmetic are its own too, since they decide the sizes.
    """
    resized, corner = cover(*picture.shape[:2], height, width)
    # Only what the crop keeps is interpolated: a narrow picture would grow enormous.
    return _bilinear(picture, resized, corner, (height, width))


def stretch(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a picture to height x width whatever its shape, as MusePose does with pictures and
    skeletons.

    uint8 (h, w, 3) -> uint8 (height, width, 3). Pillow's Lanczos filter, antialiased, axis by axis
    and rounded between them, in one order whatever the version of Pillow.
    """
    h, w = picture.shape[:2]
    between = (height, w) if resize.rows_first((h, w), (height, width)) else (h, width)
    stretched = Image.fromarray(picture)
    for rows, columns in (between, (height, width)):
        stretched = stretched.resize((columns, rows), Image.Resampling.LANCZOS)
    return np.asarray(stretched)


def bilinear(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring a picture to height x width as MusePose does with finished frames.

    uint8 (h, w, 3) -> uint8 (height, width, 3). Half-pixel centres, no antialiasing.
    """
    return _bilinear(picture, (height, width), (0, 0), (height, width))


def shown_size(h: int, w: int, height: int) -> tuple[int, int]:
    """Height and even width of finished frames `height` high in the shape of an h x w picture."""
    return height, int(height / h * w // 2 * 2)


def cover(h: int, w: int, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size to which an h x w picture is scaled to cover height x width, and the crop's corner."""
    ratio = h / w
    if ratio < height / width:
        resized = (height, math.ceil(height / ratio))
    else:
        resized = (math.ceil(width * ratio), width)
    return resized, (round((resized[0] - height) / 2), round((resized[1] - width) / 2))


def fit_transform(
    h: int, w: int, height: int, width: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """What `fit` does to points of an h x w picture, as fractions: scale and offset, each (x, y).

    For keypoints that were found before the picture was cropped; some may leave 0..1.
    """
    (resized_h, resized_w), (top, left) = cover(h, w, height, width)
    return (resized_w / width, resized_h / height), (-left / width, -top / height)


def write_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write uint8 (h, w, 3) as a PNG, whole or not at all. Raises OSError with one sentence."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    output.write_bytes(path, content.getvalue())


def as_jpeg(picture: np.ndarray, widest: int) -> bytes:
    """A picture uint8 (h, w, 3) to be looked at: as JPEG, reduced to `widest` pixels of width."""
    shown = Image.fromarray(picture)
    if shown.width > widest:
        shown = shown.resize((widest, round(shown.height * widest / shown.width)))
    content = io.BytesIO()
    shown.save(content, format="JPEG", quality=92, subsampling=0)
    return content.getvalue()


class _Unsuited(ValueError):
    """A picture that is whole but of a kind that is not read."""


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as EXIF says; what of EXIF is damaged turns nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # whatever Pillow's parser of it happens to raise
        return picture


def _to_rgb(
    picture: Image.Image, path: str | os.PathLike, negative: bool, stated: tuple[int, int]
) -> np.ndarray:
    """A decoded picture of any mode -> uint8 sRGB. negative: a TIFF whose 0 is white, which Pillow
    turns round only where levels have 8 bits. stated: as of `coding.stated`."""
    meaning = picture.info.get("icc_profile"), stated
    if picture.mode in SIXTEEN_BIT_MODES:
        levels = np.asarray(picture).astype(np.int64)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise _Unsuited(f"{path}: levels beyond 16 bits; save it with 8 bits a channel")
        levels = np.rint((0xFFFF - levels if negative else levels) / 257).astype(np.uint8)
        return np.asarray(_to_srgb(Image.fromarray(levels), *meaning).convert("RGB"))
    if picture.mode.startswith("F"):
        raise _Unsuited(f"{path}: floating-point pixels; save it with 8 bits a channel")
    if picture.has_transparency_data:
        grey = picture.getchannel("L") if picture.mode == "LA" else None  # as its profile knows it
        picture = picture.convert("RGBA")
        opaque = _to_srgb(grey or picture.convert("RGB"), *meaning).convert("RGB")
        white = Image.new("RGB", picture.size, "white")
        return np.asarray(Image.composite(opaque, white, picture.getchannel("A")))
    if picture.mode not in PROFILED_MODES:
        picture = picture.convert("RGB")
    return np.asarray(_to_srgb(picture, *meaning).convert("RGB"))


def _to_srgb(picture: Image.Image, profile: bytes | None, stated: tuple[int, int]) -> Image.Image:
    """A picture whose levels mean what an ICC profile or, without one and in high dynamic range,
    the stated numbers say -> RGB whose levels mean sRGB.

    Left alone with a profile that cannot be read or belongs to another kind of picture, and with
    one that is sRGB's up to rounding.
    """
    # A profile knows no white below its brightest level, so it leaves such a picture dark.
    if not profile or stated[0] in shown.HDR_NAMES:
        return Image.fromarray(shown.in_bt709(np.asarray(picture.convert("RGB")), *stated))
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        convert = ImageCms.buildTransform(
            own, ImageCms.createProfile("sRGB"), picture.mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        if picture.mode == "RGB":
            cube = Image.fromarray(np.indices((9, 9, 9)).T.reshape(27, 27, 3).astype(np.uint8) * 31)
            moved = np.asarray(ImageCms.applyTransform(cube, convert)).astype(int)
            if np.abs(moved - np.asarray(cube)).max() <= PROFILE_ROUNDING:
                return picture
        return ImageCms.applyTransform(picture, convert)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture


def _bilinear(
    picture: np.ndarray, resized: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Interpolate a picture to resized, of which only size from corner on is made: uint8."""
    (rows, next_rows, row_share), (columns, next_columns, column_share) = (
        _bilinear_taps(*axis) for axis in zip(picture.shape, resized, corner, size)
    )
    column_share = column_share[:, None]  # (width, 1)
    across = picture[:, columns] * (1 - column_share) + picture[:, next_columns] * column_share
    row_share = row_share[:, None, None]  # (height, 1, 1)
    result = across[rows] * (1 - row_share) + across[next_rows] * row_share
    return np.rint(result).astype(np.uint8)


def _bilinear_taps(
    size: int, resized: int, start: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two source indices and the share of the second for resized positions start.., (length,)."""
    scale = np.float32(size) / np.float32(resized)
    place = (np.arange(start, start + length, dtype=np.float32) + np.float32(0.5)) * scale
    place = np.maximum(place - np.float32(0.5), np.float32(0))
    first = np.minimum(place.astype(np.int64), size - 1)
    return first, np.minimum(first + 1, size - 1), place - first.astype(np.float32)
