"""The driving video's sound in the written one: what was used of it, in step."""

from fractions import Fraction

import av
import numpy as np
import pytest

from dispose_jax.media import sound, video
from dispose_jax.media.sound import Sound
from tests.media import films

RATE = 44100
BEAT = 0.2  # seconds from the start of one tone to that of the next


def tones(seconds, rate):
    """Tones that begin loud every fifth of a second, alternately of 440 and 880 Hz."""
    t = np.arange(round(rate * seconds)) / rate
    pitch = np.where((t / BEAT).astype(int) % 2 == 0, 440, 880)
    loud = np.where(t / BEAT % 1 < 0.5, 0.5, 0.05)
    return (loud * np.sin(2 * np.pi * np.cumsum(pitch) / rate)).astype(np.float32)


def film(path, codec, *, video_codec="libx264", rate=RATE, layout="stereo", late=0.0, still=0.0):
    """60 numbered frames at 30 a second, the 30th for `still` seconds more; the sound begins `late`
    seconds after the pictures."""
    with av.open(str(path), "w") as container:
        frames, times = films.numbered(60), np.arange(60) / 30
        times[30:] += still
        pictures = films.track(container, frames[0], 30, times, video_codec, {}, 12, {})
        heard = container.add_stream(codec, rate=rate, layout=layout)
        films.encode(container, pictures, frames, times)
        samples = np.stack([tones(2 + still - late, rate)] * (2 if layout == "stereo" else 1))
        for i in range(0, samples.shape[1], 1000):
            part = np.ascontiguousarray(samples[:, i : i + 1000])
            frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = i + round(late * rate)
            container.mux(heard.encode(frame))
        container.mux(heard.encode(None))
    return path


def heard(path):
    """What is heard from second 0 on, (n,), and the name of the codec."""
    with av.open(str(path)) as container:
        resampler, parts, first = av.AudioResampler("fltp", "mono", RATE), [], None
        for frame in container.decode(audio=0):
            first = float(frame.pts * frame.time_base) if first is None else first
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        samples = np.concatenate(parts)
        skip = round(first * RATE)
        samples = samples[-skip:] if skip < 0 else np.pad(samples, (skip, 0))
        return samples, container.streams.audio[0].codec_context.name


def lag(expected, found):
    """Milliseconds by which the loudness of found comes later, and how alike they are."""
    n = min(len(expected), len(found)) // 44 * 44
    a, b = (np.abs(x[:n]).reshape(-1, 44).mean(1) for x in (expected, found))
    a, b = a - a.mean(), b - b.mean()
    alike = np.correlate(b, a, "full")
    return alike.argmax() - len(a) + 1, alike.max() / np.sqrt((a**2).sum() * (b**2).sum())


SOURCES = {
    "a.mp4": ("aac", {}),
    "a.mkv": ("aac", {}),
    "a.ts": ("aac", {}),
    "opus.webm": ("libopus", {"video_codec": "libvpx", "rate": 48000}),
    "mp3.mkv": ("libmp3lame", {"layout": "mono"}),
    "pcm.mov": ("pcm_s16le", {"rate": 96000}),
    "late.mp4": ("aac", {"late": 0.7}),
    "late.webm": ("libopus", {"video_codec": "libvpx", "rate": 48000, "late": 0.7}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_part_that_was_used_is_heard_in_step(tmp_path, name):
    codec, values = SOURCES[name]
    source = film(tmp_path / name, codec, **values)
    assert sound.has_sound(source)
    offset = video.times(source)[0]
    for start, stop in ((0, 2), (0.413, 1.5)):
        part = Sound(source, offset + start, offset + stop)
        frames = films.numbered(round((stop - start) * 15))
        with video.writer(tmp_path / "out.mp4", 15, sound=part) as write:
            for frame in frames:
                write(frame[None])
        late = values.get("late", 0)
        expected = np.pad(tones(2 - late, RATE), (round(late * RATE), 0))
        expected = expected[round(start * RATE) : round(stop * RATE)]
        found, written = heard(tmp_path / "out.mp4")
        shift, alike = lag(expected, found)
        assert written == "aac" and abs(shift) <= 2 and alike > 0.97
        assert len(found) / RATE <= stop - start + 0.05
        assert video.probe(tmp_path / "out.mp4").num_frames == len(frames)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_is_in_step_after_a_long_still(tmp_path, name):
    source = film(tmp_path / name, "aac", still=12.3)
    chosen = video.choose(source, 2)
    with video.writer(tmp_path / "out.mp4", 15, sound=Sound(source, *chosen.span)) as write:
        for frame in video.frames(source, chosen.numbers):
            write(frame[None])
    shown = np.array([films.number_of(frame) for frame in video.iterate(tmp_path / "out.mp4", 1)])
    assert len(shown) == pytest.approx(14.3 * 15, abs=2)
    assert set(shown[20:195]) == {29} and shown[-1] >= 58
    shift, alike = lag(tones(14.2, RATE), heard(tmp_path / "out.mp4")[0])
    assert abs(shift) <= 2 and alike > 0.97


def later(source, path, seconds, with_sound=True):
    """A broadcast again, each time in it so much later."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        streams = [s for s in given.streams if with_sound or s.type == "video"]
        tracks = {s.index: container.add_stream_from_template(s) for s in streams}
        for packet in given.demux(streams):
            if packet.size:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = tracks[packet.stream.index]
                container.mux(packet)
    return path


# Of the second and the third part: seconds by which its clock is ahead, whether it has sound.
JOINED = {
    "the same clock": ((0, True), (0, True)),
    "a pause of the broadcast": ((500, True), (900, True)),
    "back and forth": ((3600, True), (7, True)),
    "a silent part": ((300, False), (0, True)),
}


@pytest.mark.parametrize("name", JOINED)
def test_the_sound_of_joined_broadcasts_goes_on_in_step(tmp_path, name):
    first = film(tmp_path / "0.ts", "aac")
    parts = [first.read_bytes()]
    for seconds, with_sound in JOINED[name]:
        parts.append(later(first, tmp_path / "1.ts", seconds, with_sound).read_bytes())
    source = tmp_path / "a.ts"
    source.write_bytes(b"".join(parts))
    chosen = video.choose(source, 2)
    assert len(chosen.numbers) == 90 and len(chosen.leaps) == 2
    part = Sound(source, *chosen.span, chosen.leaps)
    with video.writer(tmp_path / "out.mp4", 15, sound=part) as write:
        for frame in video.frames(source, chosen.numbers):
            write(frame[None])
    found = heard(tmp_path / "out.mp4")[0]
    assert len(found) / RATE == pytest.approx(6, abs=0.1)
    for start, with_sound in ((0, True), *zip((2, 4), (known for _, known in JOINED[name]))):
        samples = found[round((start + 0.1) * RATE) : round((start + 1.9) * RATE)]
        if with_sound:
            shift, alike = lag(tones(2, RATE)[RATE // 10 :], samples)
            assert abs(shift) <= 1000 * sound.SLACK and alike > 0.9
        else:
            assert np.abs(samples).max() < 0.01


def test_aac_is_copied_not_encoded_again(tmp_path):
    source = film(tmp_path / "a.mp4", "aac")
    video.write(tmp_path / "silent.mp4", films.numbered(20), 15)
    with video.writer(tmp_path / "out.mp4", 15, sound=Sound(source, 0, 20 / 15)) as write:
        write(films.numbered(20))
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.mp4")) as b:
        packets = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (a, b)]
    assert len(packets[1]) > 40 and set(packets[1]) <= set(packets[0])


def test_a_source_without_sound_or_with_a_damaged_one_gives_a_silent_video(tmp_path):
    silent = films.write(tmp_path / "silent.mp4", films.numbered(9))
    assert not sound.has_sound(silent)
    damaged = film(tmp_path / "damaged.mkv", "aac")
    content = bytearray(damaged.read_bytes())
    at = content.find(b"A_AAC")
    content[at : at + 5] = b"A_XYZ"
    damaged.write_bytes(content)
    assert not sound.has_sound(damaged) and not sound.has_sound(tmp_path / "none.mp4")
    for source in (silent, damaged, tmp_path / "none.mp4"):
        with video.writer(tmp_path / "out.mp4", 15, sound=Sound(source, 0, 1)) as write:
            write(films.numbered(9))
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert not container.streams.audio
        assert video.probe(tmp_path / "out.mp4").num_frames == 9


def test_sound_that_stops_early_leaves_the_rest_silent(tmp_path):
    source = film(tmp_path / "a.mkv", "libmp3lame")
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    with video.writer(tmp_path / "out.mp4", 15, sound=Sound(source, 0, 2)) as write:
        write(films.numbered(30))
    assert video.probe(tmp_path / "out.mp4").num_frames == 30
    assert 0.1 < len(heard(tmp_path / "out.mp4")[0]) / RATE < 1.8


def test_sound_of_packets_without_a_length_does_not_make_a_video_truncated(tmp_path):
    source = film(tmp_path / "a.flv", "adpcm_swf", video_codec="flv", layout="mono")
    with av.open(str(source)) as container:
        assert not any(packet.duration for packet in container.demux(audio=0))
    info = video.probe(source)
    assert (info.num_frames, info.warnings) == (60, ())


def test_sound_whose_clock_goes_back_does_not_cost_the_video(tmp_path):
    source = film(tmp_path / "a.flv", "aac", video_codec="flv")
    content = bytearray(source.read_bytes())
    at = 13  # after the header: tags of a type, a length, a time in milliseconds, content
    while at + 11 < len(content):
        kind, length = content[at], int.from_bytes(content[at + 1 : at + 4], "big")
        time = int.from_bytes(content[at + 4 : at + 7], "big")
        if kind == 8 and time > 1000:
            content[at + 4 : at + 7] = (time - 300).to_bytes(3, "big")
        at += 11 + length + 4
    source.write_bytes(content)
    with video.writer(tmp_path / "out.mp4", 15, sound=Sound(source, 0, 2)) as write:
        write(films.numbered(30))
    assert video.probe(tmp_path / "out.mp4").num_frames == 30
    assert 1.4 < len(heard(tmp_path / "out.mp4")[0]) / RATE < 2.1
