"""Videos as they come: cut, trimmed, damaged, with frames that are not shown or not in step."""

import shutil
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from dispose_jax.media import reading, video
from tests.media import films

CASES = films.CASES


def test_frames_of_a_live_recording_are_counted_and_timed_by_themselves():
    info, chosen = (
        video.probe(CASES / "nodefault_live.webm"),
        video.choose(CASES / "nodefault_live.webm", 2),
    )
    assert info.num_frames == 90 and float(info.fps) == pytest.approx(29.8, abs=0.1)
    assert len(chosen.numbers) == 45 and not info.warnings
    steps = np.diff(video.times(CASES / "nodefault_live.webm")[chosen.numbers])
    assert np.abs(steps - steps.mean()).max() < 0.02


def test_packets_that_are_not_shown_are_not_counted():
    info = video.probe(CASES / "hidden.webm")
    assert (info.num_frames, info.fps, info.warnings) == (90, 30, ())


@pytest.mark.parametrize(("name", "first", "count"), [("trim_24_48", 24, 48), ("trim_0_30", 0, 30)])
def test_an_edit_list_trims_the_video(name, first, count):
    path = CASES / f"{name}.mp4"
    frames = list(video.iterate(path, 1))
    assert count <= len(frames) <= count + 2 and video.probe(path).num_frames == len(frames)
    assert [films.number_of(frame) for frame in frames[:3]] == [first, first + 1, first + 2]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("b_frames", [0, 3])
def test_any_edit_list_shows_its_part(tmp_path, seed, b_frames):
    rng = np.random.default_rng(seed)
    path = films.write(
        tmp_path / "a.mp4", films.numbered(72), options={"use_editlist": "1", "bf": str(b_frames)}
    )
    first = int(rng.integers(0, 50))
    count = int(rng.integers(2, 72 - first))
    films.set_edit(path, first, count)
    found = [films.number_of(frame) for frame in video.iterate(path, 1)]
    assert found == [*range(first, first + len(found))]
    assert count <= len(found) <= count + 2
    info = video.probe(path)
    assert (info.num_frames, info.fps) == (len(found), 30)
    with pytest.raises(ValueError, match=f"ends before frame {len(found)}"):
        list(video.pick(path, [len(found)]))


def test_a_trimmed_video_that_begins_after_its_sound_is_whole(tmp_path):
    path, frames = tmp_path / "a.mp4", films.numbered(30)
    with av.open(str(path), "w") as container:
        stream = films.track(container, frames[0], 30, None, "libx264", {"bf": "0"}, 12, {})
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = i + 15, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    at = content.find(b"elst") + 8
    count, nothing, start, _, seconds = struct.unpack(">2I2iI", content[at : at + 20])
    assert (count, nothing, start, seconds) == (2, 500, -1, 1000)  # half a second of nothing
    content[at + 16 : at + 20] = struct.pack(">I", 500)
    path.write_bytes(content)
    info = video.probe(path)
    assert (info.num_frames, info.fps, info.warnings) == (15, 30, ())
    assert video.times(path)[0] == pytest.approx(0.5)


def test_a_video_that_starts_between_key_frames_is_used_from_the_first_whole_picture():
    info = video.probe(CASES / "cut.mkv")
    assert (info.num_frames, info.fps) == (54, 30)
    assert len(info.warnings) == 1 and "its first 0.27 s need a picture" in info.warnings[0]
    assert video.choose(CASES / "cut.mkv", 1, 5).warnings == info.warnings


CUT = {  # containers, codecs
    "x264.mkv": ("libx264", {}),
    "x264.ts": ("libx264", {"x264-params": "open-gop=1"}),
    "x265.mkv": ("libx265", {"x265-params": "log-level=none:keyint=12:min-keyint=12"}),
    "mpeg4.mkv": ("mpeg4", {}),
    "mpeg2.ts": ("mpeg2video", {}),
    "vp8.webm": ("libvpx", {"deadline": "realtime"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime"}),
}


@pytest.mark.parametrize("name", CUT)
def test_whatever_the_codec_frames_before_the_first_key_frame_are_left_out(tmp_path, name):
    codec, options = CUT[name]
    whole, cut = tmp_path / name, tmp_path / f"cut-{name}"
    films.write(whole, films.numbered(36), codec=codec, options=options, gop=12)
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for packet in packets[5:]:
            packet.stream = stream
            target.mux(packet)
    info = video.probe(cut)
    found = [films.number_of(frame) for frame in video.iterate(cut, 1)]
    assert found == [*range(found[0], 36)] and found[0] in (10, 11, 12)
    assert (info.num_frames, info.fps) == (len(found), 30)
    assert len(info.warnings) == 1 and "need a picture that was cut away" in info.warnings[0]


def test_a_varying_rate_keeps_its_speed():
    path = CASES / "vfr2.mp4"
    info, times = video.probe(path), video.times(path)
    assert info.num_frames == 68
    assert len(info.warnings) == 1 and "rate varies between some 8 and" in info.warnings[0]
    chosen = video.choose(path, 2)
    wanted = np.arange(len(chosen.numbers)) * 2 / float(chosen.fps)
    places = [square(frame) for frame in video.frames(path, chosen.numbers)]
    dense = wanted < 0.95
    steps = np.diff(np.array(places)[dense])
    assert np.abs(steps - np.median(steps)).max() <= 1
    assert steps.mean() == pytest.approx(50 * wanted[1], abs=0.1)
    # Where there are few frames the nearest one is shown, at most half an interval away.
    late = np.abs(times[chosen.numbers] - wanted)
    assert late[~dense].max() <= 0.125 / 2 + 1e-6


def square(frame):
    """The left edge of the moving square, in pixels."""
    bright = (np.abs(frame.astype(int) - np.median(frame, axis=(0, 1))).sum(-1) > 120).sum(0)
    return np.average(np.arange(len(bright)), weights=bright)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm"])
def test_random_rates_are_sampled_evenly_in_time(tmp_path, seed, ending):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([16, 33, 40, 125, 250], 60)) / 1000
    codec = "libvpx" if ending == "webm" else "libx264"
    path = films.write(tmp_path / f"a.{ending}", films.numbered(60), times=times, codec=codec)
    info = video.probe(path)
    assert info.num_frames == 60
    assert float(info.fps) == pytest.approx(59 / (times[-1] - times[0]), rel=0.01)
    assert any("rate varies" in warning for warning in info.warnings)
    chosen = video.choose(path, 1)
    found = [films.number_of(frame) for frame in video.frames(path, chosen.numbers)]
    assert found == chosen.numbers.tolist()
    wanted = times[0] + np.arange(len(found)) / float(info.fps)
    expected = np.abs(times - wanted[:, None]).min(1)
    np.testing.assert_allclose(np.abs(times[found] - wanted), expected, atol=2e-3)


STILL = {"mp4": "libx264", "mov": "libx264", "mkv": "libx264", "webm": "libvpx", "flv": "libx264"}


@pytest.mark.parametrize("ending", [*STILL, "live.webm"])
def test_a_still_of_any_length_stays_in_the_timeline(tmp_path, ending):
    path, times = tmp_path / f"a.{ending}", np.arange(60) / 30
    times[20:] += 25.321
    options = {"live": "1"} if ending == "live.webm" else {}  # which announces no length
    with av.open(str(path), "w", options=options) as container:
        codec = STILL[ending.removeprefix("live.")]
        films.add(container, films.numbered(60), 30, times, codec, {}, 12, {})
    info = video.probe(path)
    assert float(info.fps) == pytest.approx(30, rel=2e-3)
    assert len(info.warnings) == 1 and "rate varies" in info.warnings[0]
    found = video.times(path)
    np.testing.assert_allclose(found - found[0], times, atol=2e-3)
    chosen = video.choose(path, 2)
    assert chosen.span[1] - chosen.span[0] == pytest.approx(times[-1], abs=0.1)
    shown = [films.number_of(frame) for frame in video.frames(path, chosen.numbers)]
    assert shown[9] in (18, 19) and set(shown[20:380]) == {19} and shown[-1] >= 58


def test_a_still_of_a_broadcast_is_kept_where_its_sound_goes_on(tmp_path):
    frames, times = films.numbered(60), np.arange(60) / 30
    times[20:] += 25.321
    with av.open(str(tmp_path / "a.ts"), "w") as container:
        pictures = films.track(container, frames[0], 30, times, "libx264", {}, 12, {})
        heard = container.add_stream("aac", rate=16000, layout="mono")
        films.encode(container, pictures, frames, times)
        for i in range(27 * 16):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 16000, 1000 * i, Fraction(1, 16000)
            container.mux(heard.encode(sound))
        container.mux(heard.encode(None))
    found = video.times(tmp_path / "a.ts")
    np.testing.assert_allclose(found - found[0], times, atol=2e-3)


def test_a_leap_of_a_broadcast_or_beyond_the_announced_length_is_closed_up(tmp_path):
    times = np.arange(60) / 30
    times[20:] += 25.321
    broadcast = films.write(tmp_path / "a.ts", films.numbered(60), times=times)
    damaged = films.write(tmp_path / "a.mkv", films.numbered(60), times=times)
    content = bytearray(damaged.read_bytes())
    at = content.find(b"\x44\x89\x88") + 3  # Duration, in milliseconds
    content[at : at + 8] = struct.pack(">d", 2000.0)
    damaged.write_bytes(content)
    for path in (broadcast, damaged):
        info = video.probe(path)
        assert info.fps == 30 and len(info.warnings) == 1
        assert "its clock leaps by 25.3" in info.warnings[0]
        assert np.ptp(video.times(path)) == pytest.approx(59 / 30, abs=3e-3)


ENCODED = {
    "mp4": ("libx264", {"movflags": "faststart"}),
    "mov": ("libx264", {"movflags": "faststart"}),
    "mkv": ("libx264", {}),
    "webm": ("libvpx-vp9", {"deadline": "realtime"}),
    "flv": ("libx264", {}),
}


@pytest.mark.parametrize("ending", ENCODED)
@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_a_video_that_stops_early_is_used_as_far_as_it_goes(tmp_path, ending, share):
    codec, options = ENCODED[ending]
    rng = np.random.default_rng(0)
    frames = films.numbered(60)
    frames[:, 16:] = rng.integers(0, 256, (60, 10, 24, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    path = tmp_path / f"a.{ending}"
    if codec != "libx264":
        films.write(path, frames, codec=codec, options=options)
    else:
        with_options(path, frames, options)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    info = video.probe(path)
    found = [films.number_of(frame) for frame in video.iterate(path, 1)]
    first = video.times(path)[0]
    assert found == np.round((video.times(path) - first) * 30).astype(int).tolist()
    assert share * 60 - 15 <= len(found) <= min(59, share * 60 + 10)
    assert info.fps == 30
    if share < 0.9:  # at the very end a frame in between may be what is missing
        assert any("s that it announces; it is truncated" in warning for warning in info.warnings)
    assert len(video.choose(path, 2).numbers) == -(-(found[-1] + 1) // 2)


def with_options(path, frames, options):
    with av.open(str(path), "w", options=options) as container:
        films.add(container, frames, 30, None, "libx264", {}, 12, {})


def test_frames_that_are_damaged_are_left_out_and_the_rest_keeps_its_time(tmp_path):
    path = films.write(tmp_path / "a.mp4", films.numbered(60), gop=6)
    content = bytearray(path.read_bytes())
    middle = content.find(b"mdat") + content.find(b"moov") >> 1
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    info, times = video.probe(path), video.times(path)
    assert 40 <= info.num_frames < 60 and info.fps == 30
    assert any("damaged frames are left out" in warning for warning in info.warnings)
    chosen = video.choose(path, 1)
    found = np.array([films.number_of(frame) for frame in video.frames(path, chosen.numbers)])
    shown_at = times[chosen.numbers] * 30
    assert len(chosen.numbers) == 60
    assert np.abs(found - shown_at).max() <= 3


def test_a_track_that_appears_midway_ends_nothing_early():
    class Late:  # as PyAV where a track of a DVD or a broadcast begins later than the others
        def demux(self, *streams):
            yield from streams
            raise IndexError("list index out of range")

    assert list(reading.packets(Late(), "first", "last")) == ["first", "last"]


def test_only_the_frames_needed_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    video.write(path, films.numbered(90), 30)
    every = video.choose(path, 2)
    decoded = []
    original = reading.Decoding.__iter__

    def counting(self):
        for frame in original(self):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(reading.Decoding, "__iter__", counting)
    shutil.copy(path, tmp_path / "b.mp4")  # nothing is remembered of it
    few = video.choose(tmp_path / "b.mp4", 2, 8)
    assert len(list(video.frames(tmp_path / "b.mp4", few.numbers))) == 8
    assert len(decoded) <= 1 + 15 + 15
    np.testing.assert_array_equal(few.numbers, every.numbers[:8])
    assert few[1:5] == every[1:5] and few.span == (0.0, 8 * 2 / 30)


def test_what_was_found_is_forgotten_when_the_file_changes(tmp_path):
    video.write(tmp_path / "a.mp4", films.numbered(9), 30)
    assert video.probe(tmp_path / "a.mp4").num_frames == 9
    video.write(tmp_path / "a.mp4", films.numbered(5), 30)
    assert video.probe(tmp_path / "a.mp4").num_frames == 5


def test_names_with_colons_are_no_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video.write("12:30:15.mp4", films.numbered(4), 30)
    assert [p.name for p in tmp_path.iterdir()] == ["12:30:15.mp4"]
    assert video.probe("12:30:15.mp4").num_frames == 4
    assert len(list(video.iterate("12:30:15.mp4", 1))) == 4
