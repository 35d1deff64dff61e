"""Decoding and encoding of videos, and what is said about those that cannot be read."""

import resource
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from dispose_jax.media import image, video
from tests.media import films


def moving_square(n=9, h=48, w=80):
    """A bright square that moves two pixels a frame on a coloured ground, (n, h, w, 3)."""
    frames = np.empty((n, h, w, 3), np.uint8)
    frames[:] = (30, 90, 160)
    for i in range(n):
        frames[i, 8:24, 2 * i : 2 * i + 16] = (230, 200, 40)
    return frames


@pytest.fixture
def path(tmp_path):
    video.write(tmp_path / "a.mp4", moving_square(), 15)
    return tmp_path / "a.mp4"


def test_frames_read_back_in_order_and_colour(path):
    result = video.read(path, 1)
    assert result.info == video.Info(Fraction(15), 9, 48, 80)
    difference = np.abs(result.frames.astype(int) - moving_square())
    # Edges of the square lose colour to 4:2:0; everything else stays.
    assert np.median(difference) <= 2 and difference.mean() < 3
    own = [np.abs(f.astype(int) - g).mean() for f, g in zip(result.frames, moving_square())]
    shifted = [np.abs(f.astype(int) - g).mean() for f, g in zip(result.frames[1:], moving_square())]
    assert max(own) < min(shifted)


def test_only_every_stride_th_frame_is_kept(path):
    every = video.read(path, 1).frames
    result = video.read(path, 4)
    assert result.stride == 4 and result.info.num_frames == 9
    np.testing.assert_array_equal(result.frames, every[::4])


def test_iterating_gives_the_frames_that_reading_gives(path):
    frames = np.stack(list(video.iterate(path, 3)))
    np.testing.assert_array_equal(frames, video.read(path, 3).frames)


def test_picked_frames_are_those_of_their_numbers(path):
    every = video.read(path, 1).frames
    picked = dict(video.pick(path, [7, 2, 2, 0]))
    assert list(picked) == [0, 2, 7]
    np.testing.assert_array_equal(np.stack(list(picked.values())), every[[0, 2, 7]])


def test_a_video_that_ends_before_a_picked_frame_is_an_error(path):
    with pytest.raises(ValueError, match="a.mp4: ends before frame 9"):
        list(video.pick(path, [3, 9, 11]))


@pytest.mark.parametrize(("fps", "stride"), [(30, 2), (48, 4), (Fraction(120000, 1001), 8)])
def test_the_stride_grows_with_the_rate_of_the_file(tmp_path, fps, stride):
    video.write(tmp_path / "a.mp4", moving_square(18), fps)
    result = video.read(tmp_path / "a.mp4", 2)
    assert (result.stride, len(result.frames)) == (stride, -(-18 // stride))


@pytest.mark.parametrize("fps", [30, 60])
def test_a_bare_stream_has_the_rate_that_it_says(tmp_path, fps):
    path = films.write(tmp_path / "a.h264", films.numbered(24), rate=fps)
    assert video.probe(path).fps == fps


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), 12.5, 7, Fraction(339, 23)])
def test_the_rate_written_is_the_rate_read(tmp_path, fps):
    video.write(tmp_path / "a.mp4", moving_square(), fps)
    assert video.probe(tmp_path / "a.mp4").fps == Fraction(fps)


def test_odd_sizes_grow_by_a_repeated_row_and_column(tmp_path):
    video.write(tmp_path / "a.mp4", moving_square(3, 47, 79), 15)
    frames = video.read(tmp_path / "a.mp4", 1).frames
    assert frames.shape == (3, 48, 80, 3)
    assert np.abs(frames[:, -1].astype(int) - frames[:, -2]).mean() < 4


def test_chunks_make_the_same_file_as_the_whole(tmp_path, path):
    frames = moving_square()
    video.write(tmp_path / "b.mp4", (frames[i : i + 2] for i in range(0, 9, 2)), 15)
    np.testing.assert_array_equal(
        video.read(tmp_path / "b.mp4", 1).frames, video.read(path, 1).frames
    )


# Where the stored x and y axes point on the screen: the first entries of the display matrix.
@pytest.mark.parametrize(
    ("axes", "turns"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)]
)
def test_videos_are_turned_as_their_display_matrix_says(path, axes, turns):
    stored = video.read(path, 1).frames
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 44  # ISO 14496-12, 8.3.2: the matrix of a version 0 header
    a, b, c, d = (v * 0x10000 for v in axes)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)
    result = video.read(path, 1)
    np.testing.assert_array_equal(result.frames, np.rot90(stored, turns, axes=(1, 2)))
    assert (result.info.height, result.info.width) == result.frames.shape[1:3]


def test_a_missing_video_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.mp4: no such video"):
        video.read(tmp_path / "none.mp4", 1)


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(ValueError, match="a.mp4: not a video"):
        video.read(tmp_path / "a.mp4", 1)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="not a video"):
        video.read(tmp_path / "a.mp4", 1)


def test_a_folder_of_frames_is_refused_with_what_makes_a_video_of_it(tmp_path):
    with pytest.raises(ValueError, match="is a folder, expected a video; join .*ffmpeg"):
        video.read(tmp_path, 1)


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_videos_without_a_whole_picture_are_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="a.mp4: .*(truncated|corrupt)"):
        video.read(path, 1)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="a.wav: holds no video stream"):
        video.read(tmp_path / "a.wav", 1)


def test_a_single_frame_is_no_moving_picture(tmp_path):
    video.write(tmp_path / "a.mp4", moving_square(1), 15)
    with pytest.raises(ValueError, match="holds 1 frame, expected a moving picture"):
        video.read(tmp_path / "a.mp4", 1)


def test_a_picture_in_place_of_a_video_is_refused(tmp_path):
    image.write_png(tmp_path / "a.png", moving_square(1)[0])
    with pytest.raises(ValueError, match="a.png: "):
        video.read(tmp_path / "a.png", 1)


def test_a_moving_webp_is_told_from_a_damaged_video(tmp_path):
    first, *others = [Image.fromarray(frame) for frame in moving_square(4)]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, duration=100)
    with pytest.raises(ValueError, match="a.webp: .*moving WebP .*convert it to MP4 or GIF"):
        video.read(tmp_path / "a.webp", 1)


@pytest.mark.parametrize("ending", ["gif", "png"])
def test_a_moving_picture_plays_as_fast_as_in_a_browser(tmp_path, ending):
    path, stay = tmp_path / f"a.{ending}", [10, 20, 10, 30, 0, 250, 100]
    first, *others = [Image.fromarray(frame) for frame in moving_square(7)]
    first.save(path, save_all=True, append_images=others, duration=stay)
    shown = [0.1, 0.02, 0.1, 0.03, 0.1, 0.25]
    if ending == "png":  # FFmpeg takes 1/15 s for none in an APNG
        shown[4] = 1 / 15
    np.testing.assert_allclose(np.diff(video.times(path)), shown, atol=1e-3)
    first.save(path, save_all=True, append_images=others, duration=10)
    chosen = video.choose(path, 2, 3)
    assert (chosen.fps, chosen.stride) == (10, 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile '{}'\n"),
    ],
)
def test_a_file_that_leads_to_others_is_refused(tmp_path, name, content):
    films.write(tmp_path / "b.ts", films.numbered(9))
    (tmp_path / name).write_text(content.format("b.ts"))
    with pytest.raises(ValueError, match=f"{name}: a playlist, .*join them into one file first"):
        video.probe(tmp_path / name)


def test_a_download_that_broke_off_between_its_fragments_is_called_truncated(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        films.add(container, films.numbered(36), 30, None, "libx264", {}, 12, {})
    content = path.read_bytes()
    head = content.find(b"moof", content.find(b"moof") + 4)  # of the second fragment
    path.write_bytes(content[: head + 203])
    with pytest.raises(ValueError, match="a.mp4: not a video .*truncated or corrupt"):
        video.probe(path)


def test_a_stride_that_leaves_one_frame_is_refused(path):
    with pytest.raises(ValueError, match="a stride of 9 leaves 1.*lower the stride"):
        video.read(path, 9)


def test_strides_below_one_are_refused():
    with pytest.raises(ValueError, match="stride 0"):
        video.stride_for(30, 0)


def test_a_video_without_frames_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no frames to write"):
        video.write(tmp_path / "a.mp4", [], 15)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -5, 1e6])
def test_impossible_rates_are_refused(tmp_path, fps):
    with pytest.raises(ValueError, match="frames per second"):
        video.write(tmp_path / "a.mp4", moving_square(2), fps)


def test_frames_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="frames of 64 x 48 after frames of 80 x 48"):
        video.write(tmp_path / "a.mp4", [moving_square(2), moving_square(2, w=64)], 15)
    assert not list(tmp_path.iterdir())


def test_frames_that_are_not_bytes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="float64, expected"):
        video.write(tmp_path / "a.mp4", moving_square(2) / 255.0, 15)


def test_a_crash_while_writing_keeps_the_older_video(path):
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="the model failed"):
        with video.writer(path, 15) as write:
            write(moving_square(4))
            raise RuntimeError("the model failed")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("limit", [0, 2_000, 60_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, limit):
    noise = np.random.default_rng(0).integers(0, 256, (12, 128, 96, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The largest size of a file stands in for a full disk: the write itself fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="a.mp4: cannot write this file: File too large; "):
            video.write(tmp_path / "a.mp4", noise, 15)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
