"""Latents become frames: chunk by chunk, and what happens to those left over."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from dispose_jax import decoding

PARAMS = {"colours": np.array([1.0, 0.5, -1.0], np.float32)}


@dataclass(frozen=True)
class Mixing:
    """A model whose decoder gives one pixel per latent."""

    generates_reference: bool

    def decode(self, params, latents):
        """Frames of one pixel per latent that depend on those they are decoded with."""
        return latents[..., :1] + latents[..., 1:].mean(1, keepdims=True) * params["colours"]


@pytest.mark.parametrize("chunk", [1, 3, 20])
@pytest.mark.parametrize("generates_reference", [True, False])
def test_frames_are_decoded_chunk_by_chunk_without_a_generated_reference(
    chunk, generates_reference
):
    model = Mixing(generates_reference=generates_reference)
    latents = np.random.default_rng(1).normal(size=(1, 7, 3, 4, 2)).astype(np.float32)
    done = []
    parts = decoding.decode(
        model,
        PARAMS,
        latents,
        chunk,
        devices=jax.devices()[:1],
        progress=lambda *counts: done.append(counts),
    )
    frames = list(parts)
    assert all(len(part) and part.dtype == np.uint8 for part in frames)
    parts = [latents[:, i : i + chunk] for i in range(0, 7, chunk)]
    expected = np.concatenate([np.asarray(model.decode(PARAMS, part))[0] for part in parts])
    levels = np.floor(np.clip(expected / 2 + 0.5, 0, 1) * 255)
    levels = levels[1:] if generates_reference else levels
    assert np.abs(np.concatenate(frames) - levels).max() <= 1  # a rounding in front of a floor
    assert (np.concatenate(frames) == levels).mean() > 0.99
    assert done == [(min(i + chunk, 7), 7) for i in range(0, 7, chunk)]


def test_frames_left_over_are_decoded_as_the_end_of_a_whole_chunk_where_asked():
    model = Mixing(generates_reference=False)
    latents = np.random.default_rng(1).normal(size=(1, 8, 3, 4, 2)).astype(np.float32)
    ask = lambda part, **options: np.concatenate(
        list(decoding.decode(model, PARAMS, part, 3, **options))
    )
    found, released, end = ask(latents, rest="whole"), ask(latents), ask(latents[:, 5:])
    np.testing.assert_array_equal(found[:6], released[:6])
    np.testing.assert_array_equal(found[6:], end[1:])
    assert np.any(released[6:] != end[1:])
    np.testing.assert_array_equal(ask(latents[:, :6], rest="whole"), ask(latents[:, :6]))
    # Too few for a chunk: as if its last frame came again.
    longer = ask(latents[:, [0, 1, 1]])
    np.testing.assert_array_equal(ask(latents[:, :2], rest="whole"), longer[:2])


def test_decoding_is_cut_into_whole_chunks():
    pieces = lambda *size: [(list(n), list(n[new])) for n, new in decoding.pieces(*size)]
    assert pieces(6, 3, "short") == [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [3, 4, 5])]
    assert pieces(4, 3, "short")[1] == ([3], [3])
    assert pieces(4, 3, "whole")[1] == ([1, 2, 3], [3])
    assert pieces(2, 3, "whole") == [([0, 1, 1], [0, 1])]


def test_devices_decode_the_next_frames_while_the_caller_has_the_last_ones(monkeypatch):
    decode, begun, seen = decoding._decode, [], []

    def beginning(*arguments):
        begun.append(len(arguments[-1]))
        return decode(*arguments)

    monkeypatch.setattr(decoding, "_decode", beginning)
    latents = np.zeros((1, 7, 3, 4, 2), np.float32)
    model, devices = Mixing(generates_reference=True), jax.devices()[:2]
    for frames in decoding.decode(model, PARAMS, latents, 2, devices=devices):
        seen.append((len(frames), len(begun)))
    # Four frames but the reference, two on one device alone, and the last in a program of its own.
    assert seen == [(3, 2), (2, 3), (1, 3)]
