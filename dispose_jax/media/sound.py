"""The sound of a source video, cut to what was used and put beside new pictures (host code, PyAV).

AAC is copied packet by packet where the container can hold it as it is, else everything is decoded
and encoded as AAC.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from dispose_jax.media import reading

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # samples a second
OVERLAP = 1.0  # seconds by which sound may go on after the pictures of a part, at a leap
SLACK = 0.05  # seconds; sound that is further from its time is moved there
BIT_RATE = 192_000


class Sound(NamedTuple):
    """A part of a file's sound: seconds in the file's clock, as of video.times."""

    path: str | os.PathLike
    start: float
    stop: float
    leaps: tuple[float, ...] = ()  # of that clock, as of video.Chosen


def has_sound(path: str | os.PathLike) -> bool:
    """Whether a file holds sound of which something can be decoded."""
    try:
        with av.open(reading.url(path), metadata_errors="ignore") as container:
            return any(True for _ in _frames(container))
    except (av.error.FFmpegError, OSError):
        return False


def beside(container, sound: Sound) -> Iterator[tuple[float, av.Packet]]:
    """Add a track for a sound to a new video's container, before anything is written to it.

    Returns its packets, each with the second of the new video at which it plays. Sound that is
    damaged ends where the damage begins; without any no track is added.
    """
    try:
        source = av.open(reading.url(sound.path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError):
        return iter(())
    stream = _stream(source)
    if stream is None:
        source.close()
        return iter(())
    if stream.codec_context.name == "aac" and stream.codec_context.extradata:
        track = container.add_stream_from_template(stream)
        return _copied(source, stream, track, sound)
    rate = stream.codec_context.sample_rate
    layout = "mono" if stream.codec_context.channels == 1 else "stereo"
    rate = rate if rate in RATES else max(RATES)
    track = container.add_stream("aac", rate=rate, layout=layout)
    track.codec_context.bit_rate = BIT_RATE if layout == "stereo" else BIT_RATE // 2
    return _encoded(source, track, rate, layout, sound)


def _stream(container):
    """The default sound track, else the first; None without one that has a decoder."""
    streams = [s for s in container.streams.audio if s.codec_context is not None]
    default = av.stream.Disposition.default
    return next((s for s in streams if s.disposition & default), streams[0] if streams else None)


def _copied(source, stream, track, sound: Sound) -> Iterator[tuple[float, av.Packet]]:
    """Packets of AAC as they are, moved in time. The one before the start comes along: a decoder
    needs it for the first samples, and players skip what lies before 0."""
    with source:
        before = last = None
        for packet in _packets(source, stream, sound.leaps):
            if packet.pts is None or not packet.size:
                continue
            second = float(packet.pts * packet.time_base) - sound.start
            if second >= sound.stop - sound.start:
                return
            ends = second + float((packet.duration or 0) * packet.time_base)
            shift = round(sound.start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.pts - shift
            packet.stream = track
            if last is not None and packet.pts <= last:
                continue  # the clock went back: what a player has passed is not played again
            last = packet.pts
            if ends <= 0:
                before = second, packet
                continue
            if before is not None:
                yield before
                before = None
            yield second, packet


def _encoded(
    source, track, rate: int, layout: str, sound: Sound
) -> Iterator[tuple[float, av.Packet]]:
    """The sound decoded, cut to the sample and encoded."""
    with source:
        length = round((sound.stop - sound.start) * rate)
        done = 0
        for samples, place in _samples(source, rate, layout, sound):
            samples = np.ascontiguousarray(_in_place(samples, place, done, length, rate))
            if not samples.shape[1]:
                if done >= length:
                    break
                continue
            frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, done, Fraction(1, rate)
            done += samples.shape[1]
            for packet in track.encode(frame):
                yield _second(packet), packet
        if done:
            for packet in track.encode(None):
                yield _second(packet), packet


def _in_place(samples: np.ndarray, place: int, done: int, length: int, rate: int) -> np.ndarray:
    """What of samples (channels, n), the first of them number `place`, comes after the `done` ones
    that are written, of `length` in all: with the silence before them."""
    if abs(place - done) > SLACK * rate:
        if place > done:  # a pause
            samples = np.pad(samples, [(0, 0), (min(place, length) - done, 0)])
        else:  # from before the start, or a second time
            samples = samples[:, done - place :]
    elif done == 0 and place < 0:  # the first ones to the sample
        samples = samples[:, -place:]
    elif done == 0:
        samples = np.pad(samples, [(0, 0), (place, 0)])
    return samples[:, : length - done]


def _samples(source, rate: int, layout: str, sound: Sound) -> Iterator[tuple[np.ndarray, int]]:
    """Decoded sound (channels, n) float32 at a rate, with the number of its first sample, counted
    from its start."""
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    place = None
    for frame in _frames(source, sound.leaps):
        if frame.pts is not None:
            place = round((float(frame.pts * frame.time_base) - sound.start) * rate)
        for part in resampler.resample(frame):
            samples = part.to_ndarray()
            if place is None:
                place = 0
            yield samples, place
            place += samples.shape[1]


def _frames(source, leaps: tuple[float, ...] = ()) -> Iterator[av.AudioFrame]:
    """The decoded sound, as far as it goes."""
    stream = _stream(source)
    if stream is None:
        return
    for packet in _packets(source, stream, leaps):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def _packets(source, stream, leaps: tuple[float, ...]) -> Iterator[av.Packet]:
    """A track's packets, until the file ends or cannot be read on; leaps of its clock are closed up
    where it makes them too."""
    closed = np.concatenate([[0.0], np.cumsum(leaps)])  # seconds after so many leaps
    passed, end = 0, None
    try:
        for packet in reading.packets(source, stream):
            if packet.size and packet.pts is not None:
                pauses = _second(packet) - closed[passed:] - (end or 0.0)
                may_be = pauses >= -OVERLAP
                if end is not None and may_be.any():  # parts without sound are passed at once
                    passed += int(np.where(may_be, abs(pauses), np.inf).argmin())
                packet.pts -= round(closed[passed] / packet.time_base)
                end = _second(packet) + float((packet.duration or 0) * packet.time_base)
            yield packet
    except (av.error.FFmpegError, OSError):
        return


def _second(packet) -> float:
    return float((packet.pts or 0) * packet.time_base)
