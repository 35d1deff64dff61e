"""Damaged videos and pictures end in a result or in one sentence: never a crash, a hang, or memory
without bound."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media import films

ROOT = Path(__file__).parents[2]
MOST_SECONDS, MOST_BYTES = 10, 2**30

# Reads files named on stdin in a process of its own, which may crash, and says how each ended.
READER = """
import json, sys, time, warnings
from dispose_jax.media import image, sound, video
warnings.simplefilter("ignore")

def peak_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

open("/proc/self/clear_refs", "w").write("5")  # the peak is ours, not that of who started us

def watch(path):
    info = video.probe(path)
    sound.has_sound(path)
    try:
        chosen = video.choose(path, 2)
    except ValueError:
        chosen = video.choose(path, 1)
    count = sum(1 for _ in video.frames(path, chosen.numbers))
    assert count == len(chosen.numbers) and 0 < info.fps
    video.choose(path, 2, 3)

for path in map(str.strip, sys.stdin):
    start, said = time.perf_counter(), None
    try:
        (image.read if "picture" in path else watch)(path)
    except ValueError as error:
        said = str(error)
    except BaseException as error:
        said = f"ESCAPED {type(error).__name__}: {error}"
    spent = time.perf_counter() - start
    print(json.dumps([path, said, spent, peak_bytes()]), flush=True)
"""


@pytest.mark.full
@pytest.mark.parametrize("kind", ["video", "picture"])
def test_damage_ends_in_a_result_or_one_sentence(tmp_path, kind):
    seeds = videos(tmp_path) if kind == "video" else pictures(tmp_path)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(500):
        seed = seeds[i % len(seeds)]
        paths.append(tmp_path / f"{kind}_{i}{seed.suffix}")
        paths[-1].write_bytes(mutated(seed.read_bytes(), rng))
    fine = 0
    for path, said, seconds, peak in read(paths):
        assert said is None or (path in said and "\n" not in said), said
        assert "ESCAPED" not in (said or ""), said
        assert seconds < MOST_SECONDS and peak < MOST_BYTES, (path, seconds, peak)
        fine += said is None
    assert 20 < fine < 480  # the damage does damage, but not everything


def read(paths):
    """How reading each file ended; a crash of the reader is a failure that names the file."""
    command = [sys.executable, "-c", READER]
    names = "\n".join(map(str, paths))
    done = subprocess.run(
        command, input=names, capture_output=True, text=True, cwd=ROOT, timeout=1500
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(paths), (paths[len(results)], done.returncode, done.stderr[-500:])
    return results


def mutated(content, rng):
    """Bytes changed, cut off, taken out, doubled, or overwritten with zeros."""
    content, kind = bytearray(content), rng.integers(6)
    head = 400 if rng.random() < 0.5 else len(content)  # headers are small and matter most
    at, length = int(rng.integers(min(head, len(content)))), int(rng.integers(1, 60))
    if kind == 0:
        for place in rng.integers(0, min(head, len(content)), int(rng.integers(1, 8))):
            content[place] = rng.integers(256)
    elif kind == 1:
        del content[at:]
    elif kind == 2:
        del content[at : at + length]
    elif kind == 3:
        content[at:at] = content[at : at + length]
    elif kind == 4:
        content[at : at + length] = bytes(len(content[at : at + length]))
    else:  # sizes and counts at their ends
        content[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)])
    return bytes(content)


def videos(folder):
    """Small videos in many containers and codecs."""
    frames = films.numbered(12, 48, 64)
    made = [
        films.write(folder / f"seed.{ending}", frames, codec=codec, gop=4)
        for ending, codec in (
            ("mp4", "libx264"),
            ("mov", "mpeg4"),
            ("mkv", "libx264"),
            ("webm", "libvpx"),
            ("avi", "msmpeg4"),
            ("ts", "libx264"),
            ("flv", "flv"),
            ("mpg", "mpeg2video"),
            ("wmv", "wmv2"),
        )
    ]
    made.append(films.with_sound(folder / "sound.mp4", frames, seconds=0.4))
    Image.fromarray(frames[0]).save(
        folder / "seed.gif", save_all=True, append_images=[*map(Image.fromarray, frames[1:])]
    )
    return [*made, folder / "seed.gif", *sorted(films.CASES.glob("*.mp4"))]


def pictures(folder):
    """Small pictures in many formats, some with profiles and orientation."""
    picture = Image.fromarray(films.cornered())
    with Image.open(films.CASES / "p3_swatch.png") as file:
        profile = file.info["icc_profile"]
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for ending in ("png", "jpg", "webp", "avif", "gif", "bmp", "tif", "jp2", "tga", "ico", "ppm"):
        made.append(folder / f"seed.{ending}")
        more = {"icc_profile": profile, "exif": exif} if ending in ("png", "jpg", "webp") else {}
        picture.save(made[-1], **more)
    picture.convert("P").save(folder / "palette.png", transparency=0)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    return [*made, folder / "palette.png", folder / "cmyk.jpg"]
