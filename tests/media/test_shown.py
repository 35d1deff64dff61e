"""The picture that a player shows: turned, mirrored, with square pixels, in BT.709's colours."""

import io
import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from dispose_jax.media import shown, video
from tests.media import films

CASES = films.CASES


@pytest.mark.parametrize(
    ("name", "shape", "corners"),
    [
        ("matrix_hflip.mp4", (96, 128, 3), ["green", "red", "yellow", "blue"]),
        ("matrix_rot90.mp4", (128, 96, 3), ["blue", "red", "yellow", "green"]),
    ],
)
def test_mirrored_and_turned_cases(name, shape, corners):
    frame = next(video.iterate(CASES / name, 1))
    assert frame.shape == shape and films.corners_of(frame) == corners
    info = video.probe(CASES / name)
    assert (info.height, info.width) == shape[:2]


EIGHT = [(a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)]
EIGHT += [(0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)]


@pytest.mark.parametrize("matrix", EIGHT)
@pytest.mark.parametrize("aspect", [None, Fraction(4, 3), Fraction(1, 2)])
def test_every_display_matrix_moves_each_pixel_where_it_says(tmp_path, matrix, aspect):
    values = {} if aspect is None else {"sample_aspect_ratio": aspect}
    path = films.write(tmp_path / "a.mp4", [films.cornered()] * 3, **values)
    stored = next(video.iterate(path, 1))
    films.set_matrix(path, *matrix)
    result = next(video.iterate(path, 1))
    a, b, c, d = matrix
    rows, columns = np.mgrid[: stored.shape[0], : stored.shape[1]]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    expected = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    expected[y, x] = stored
    np.testing.assert_array_equal(result, expected)
    info = video.probe(path)
    assert (info.height, info.width) == result.shape[:2]
    assert stored.shape[1] == (128 if aspect is None else round(128 * aspect))


@pytest.mark.parametrize(("tag", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_frames_with_side_data_that_has_no_name_here_are_shown_and_turned(tmp_path, tag, turns):
    exif = Image.Exif()  # which FFmpeg gives beside each frame
    exif[0x0112] = tag
    content = io.BytesIO()
    Image.fromarray(films.cornered()).save(content, "JPEG", exif=exif)
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
        for i in range(3):
            packet = av.Packet(content.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 25)
            packet.is_keyframe = True
            container.mux(packet)
    upright = np.rot90(films.cornered(), turns)
    result = next(video.iterate(path, 1))
    assert result.shape == upright.shape
    assert films.corners_of(result) == films.corners_of(upright)


def test_pixels_that_are_not_square_are_made_so():
    frame = next(video.iterate(CASES / "sar43.mkv", 1))
    info = video.probe(CASES / "sar43.mkv")
    assert (info.height, info.width) == frame.shape[:2] == (120, 213)
    inside = np.argwhere(np.abs(frame.astype(int) - frame[2, 2]).sum(-1) > 120)
    height, width = np.ptp(inside, axis=0) + 1
    assert height > 30 and abs(height - width) <= 2


def test_the_default_track_is_shown(tmp_path):
    assert next(video.iterate(CASES / "two.mkv", 1)).shape == (96, 128, 3)
    assert video.probe(CASES / "two.mkv").num_frames == 18
    for default in range(3):
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            films_of = [films.numbered(4, 48 + 16 * track, 64) for track in range(3)]
            tracks = [
                films.track(container, frames[0], 30, None, "ffv1", {}, 12, {})
                for frames in films_of
            ]
            for i, track in enumerate(tracks):
                track.disposition = int(i == default)  # 1: the default one
            for track, frames in zip(tracks, films_of):
                films.encode(container, track, frames)
        info = video.probe(tmp_path / "a.mkv")
        assert (info.num_frames, info.height) == (4, 48 + 16 * default)


def test_of_a_moving_avif_the_moving_track_is_shown(tmp_path):
    first, *others = [Image.fromarray(frame) for frame in films.numbered(6)]
    first.save(tmp_path / "a.avif", save_all=True, append_images=others, duration=100)
    info = video.probe(tmp_path / "a.avif")
    assert (info.num_frames, info.fps, info.warnings) == (6, 10, ())
    found = [films.number_of(frame) for frame in video.iterate(tmp_path / "a.avif", 1)]
    assert found == [*range(6)]


def pq(nits):
    """SMPTE ST 2084's code of some nits, 0..1."""
    power = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def displayed(colours, transfer, primaries):
    """R'G'B' (n, 3) in 0..1 -> levels of BT.709 0..255, not rounded, by the definitions."""
    if transfer == shown.PQ:
        nits = np.concatenate([[0], np.geomspace(1e-6, 1e4, 400_000)])
        light = np.interp(colours, pq(nits), nits) / 203
    elif transfer == shown.HLG:
        scene = np.linspace(0, 1, 400_001)
        codes = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        scene = np.interp(colours, np.where(scene <= 1 / 12, np.sqrt(3 * scene), codes), scene)
        light = scene * (scene @ (0.2627, 0.678, 0.0593))[:, None] ** 0.2 * 1000 / 203
    else:
        light = colours**2.4
    light = light @ np.transpose(shown.TO_BT709.get(primaries, np.eye(3)))
    if transfer in shown.HDR_NAMES:
        peak = np.maximum(light.max(-1, keepdims=True), 1e-9)
        rolled = 0.6 + 0.4 * (1 - np.exp(-(peak - 0.6) / 0.4))
        light *= np.where(peak > 0.6, rolled, peak) / peak
    return 255 * np.clip(light, 0, 1) ** (1 / 2.4)


@pytest.mark.parametrize(
    ("transfer", "primaries"),
    [*itertools.product((shown.PQ, shown.HLG), (shown.BT2020, shown.P3, 1)), (1, shown.BT2020)],
)
@pytest.mark.parametrize("levels", [np.uint8, np.uint16])
def test_colours_are_brought_into_bt709_by_the_definitions(transfer, primaries, levels):
    most = np.iinfo(levels).max
    colours = np.random.default_rng(0).integers(0, most + 1, (70, 11, 3)).astype(levels)
    colours[:40, :, 1:] = colours[:40, :, :1]  # greys
    result = shown.in_bt709(colours, transfer, primaries)
    expected = displayed(colours.reshape(-1, 3) / most, transfer, primaries)
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result.reshape(-1, 3), expected, atol=0.7)


@pytest.mark.parametrize("transfer", [shown.PQ, shown.HLG])
def test_a_ramp_of_high_dynamic_range_shows_no_bands(transfer):
    ramp = np.arange(0, 65536, 16, dtype=np.uint16)[None, :, None].repeat(3, -1)
    result = shown.in_bt709(ramp, transfer, shown.BT2020)[0].astype(int)
    assert set(np.unique(np.diff(result[:, 0]))) == {0, 1}
    assert np.ptp(result, axis=1).max() <= 1


@pytest.mark.parametrize(("transfer", "name"), [(shown.PQ, "PQ"), (shown.HLG, "HLG")])
def test_high_dynamic_range_is_brought_into_bt709(tmp_path, transfer, name):
    codes = [pq(nits) for nits in (0.1, 20, 100, 203, 1000)]
    if transfer == shown.HLG:
        codes = [0.0, 0.25, 0.5, 0.75, 1.0]
    frame = np.zeros((64, 160, 3), np.uint8)
    for i, code in enumerate(codes):
        frame[:, 32 * i : 32 * i + 32] = round(code * 255)
    path = films.write(
        tmp_path / "a.mp4",
        [frame] * 3,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"x265-params": "log-level=none", "crf": "4"},
        color_trc=transfer,
        color_primaries=shown.BT2020,
        colorspace=9,
    )
    info = video.probe(path)
    assert len(info.warnings) == 1 and f"({name})" in info.warnings[0]
    result = next(video.iterate(path, 1))[32, 16::32].astype(int)
    grey = displayed(np.repeat(np.array(codes)[:, None], 3, 1), transfer, shown.BT2020)
    np.testing.assert_allclose(result, grey, atol=4)
    assert (np.diff(result[:, 0]) > 8).all() and (np.ptp(result, axis=1) <= 3).all()
    if transfer == shown.PQ:  # 20 nits beside a white of 203: shadows keep their light
        assert result[1, 0] == pytest.approx(255 * (20 / 203) ** (1 / 2.4), abs=4)


def test_wide_colours_reach_the_corners_of_bt709_and_greys_stay():
    red = np.linalg.solve(np.array(shown.TO_BT709[shown.P3]), [1.0, 0, 0])  # BT.709's in P3
    colours = np.array([red ** (1 / 2.4), [0.2] * 3, [0.8] * 3, [1, 0, 0]])
    result = shown.in_bt709(np.rint(65535 * colours).astype(np.uint16)[None], 1, shown.P3)
    expected = [[[255, 0, 0], [51] * 3, [204] * 3, [255, 0, 0]]]
    np.testing.assert_allclose(result, expected, atol=1)


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx264", "a.mts", {"x264-params": "bff=1", "bf": "0"}),
        ("mpeg2video", "a.vob", {"flags": "+ildct+ilme"}),
    ],
)
def test_two_moments_in_one_frame_show_no_combs(tmp_path, codec, name, options):
    n, places = 14, 9 * np.arange(28)
    frames = np.full((n, 96, 320, 3), 60, np.uint8)
    for i in range(n):  # a bar that is nine pixels further in every other row
        frames[i, 1::2, places[2 * i] : places[2 * i] + 24] = 220
        frames[i, 0::2, places[2 * i + 1] : places[2 * i + 1] + 24] = 220
    with av.open(str(tmp_path / name), "w") as container:
        stream = films.track(container, frames[0], 25, None, codec, options, 12, {})
        films.encode(container, stream, frames)
    found = list(video.iterate(tmp_path / name, 1))
    assert len(found) == n == video.probe(tmp_path / name).num_frames
    for i, frame in enumerate(found[1:-1], 1):
        bright = frame[..., 1] > 140
        assert np.abs(np.diff(bright.argmax(1))).max() <= 3, "rows of two moments side by side"
        assert abs(bright[48].argmax() - places[2 * i]) <= 4, "the first of them is shown"


@pytest.mark.parametrize("formats", [("yuv420p", "yuv444p"), ("yuv422p10le", "yuv420p")])
def test_combs_are_removed_where_another_pixel_format_begins(tmp_path, formats):
    frame = films.cornered(96, 320)
    streams = []
    for i, pix_fmt in enumerate(formats):
        path = tmp_path / f"{i}.h264"
        options = {"x264-params": "bff=1", "bf": "0"}
        films.write(path, [frame] * 8, options=options, pix_fmt=pix_fmt)
        streams.append(path.read_bytes())
    joined = tmp_path / "a.h264"
    joined.write_bytes(b"".join(streams))
    found = list(video.iterate(joined, 1))
    assert len(found) == video.probe(joined).num_frames == 16
    for result in found:
        assert films.corners_of(result) == films.corners_of(frame)
        assert np.abs(result[48, 160].astype(int) - frame[48, 160]).max() <= 4


def test_colours_that_cannot_be_converted_are_named(tmp_path):
    path = films.write(
        tmp_path / "a.mp4",
        [films.cornered()] * 3,
        codec="libx265",
        pix_fmt="yuv444p10le",
        options={"x265-params": "log-level=none"},
        colorspace=14,  # ICtCp
    )
    with pytest.raises(ValueError, match="a.mp4: colours .*matrix 14 .*convert it to BT.709"):
        next(video.iterate(path, 1))


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparent_parts_of_a_webm_are_white(tmp_path, codec):
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuva420p"
        stream.options = {"deadline": "realtime", "auto-alt-ref": "0", "crf": "10"}
        stream.codec_context.gop_size = 6
        for shown_at in range(18):
            frame = np.zeros((96, 128, 4), np.uint8)  # black and transparent
            frame[16:80, 16:48] = 200, 100, 50, 255
            frame[16:80, 80:112] = 200, 100, 50, 102
            frame[:8, : 4 * shown_at + 4] = 0, 0, 255, 255
            picture = av.VideoFrame.from_ndarray(frame, "rgba").reformat(format="yuva420p")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    cut = tmp_path / "cut.webm"
    with av.open(str(path)) as source, av.open(str(cut), "w") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        track.metadata["alpha_mode"] = "1"
        for packet in [packet for packet in source.demux(video=0) if packet.size][2:]:
            packet.stream = track
            target.mux(packet)
    for file, first in ((path, 0), (cut, 6)):
        found = list(video.iterate(file, 1))
        assert len(found) == video.probe(file).num_frames == 18 - first
        assert bool(video.probe(file).warnings) == (first > 0)
        for i, frame in enumerate(found, first):
            assert np.ptp(frame[2], 1).argmin() == pytest.approx(4 * i + 4, abs=2)
            colours = frame[48, [32, 64, 96]].astype(int)
            np.testing.assert_allclose(
                colours, [(200, 100, 50), [255] * 3, (233, 193, 173)], atol=8
            )


@pytest.mark.parametrize(("codec", "name"), [("png", "a.mov"), ("apng", "a.apng")])
def test_transparent_parts_of_a_video_are_white_as_of_pictures(tmp_path, codec, name):
    frame = np.zeros((48, 64, 4), np.uint8)  # black and transparent
    frame[:20] = 200, 100, 50, 255
    frame[20:30] = 200, 100, 50, 51
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "rgba"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgba")))
        container.mux(stream.encode())
    result = next(video.iterate(tmp_path / name, 1))
    for row, colour in ((10, (200, 100, 50)), (25, (244, 224, 214)), (40, (255, 255, 255))):
        np.testing.assert_array_equal(result[row, 30], colour)


def test_the_fourth_byte_of_an_uncompressed_avi_is_no_alpha(tmp_path):
    frame = np.zeros((48, 64, 4), np.uint8)
    frame[..., :3] = 200, 100, 50
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "bgra"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgba")))
        container.mux(stream.encode())
    for result in video.iterate(tmp_path / "a.avi", 1):
        np.testing.assert_array_equal(result, frame[..., :3])


def test_what_is_bt709_already_is_left_alone(tmp_path):
    path = tmp_path / "a.mp4"
    video.write(path, films.numbered(3), 30)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        np.testing.assert_array_equal(
            shown.picture(frame, shown.view(frame, None)), frame.to_ndarray(format="rgb24")
        )


def test_absurd_aspect_ratios_are_damage():
    frame = av.VideoFrame(64, 48, "yuv420p")
    for aspect in (None, Fraction(0), Fraction(65535), Fraction(1, 65535)):
        assert shown.size(frame, shown.view(frame, aspect)) == (48, 64)
