"""Prepare a folder of videos for training: clips with keypoints, pictures at training size, and
guidance points of their optical flow.

python -m dispose_jax.data.prepare --config configs/svd.py --videos VIDEOS --out SET --weights DIR
python -m dispose_jax.data.prepare ... --shard 3/8     # the fourth of eight machines, same --out

Keypoints come from NAME.poses.json beside NAME.mp4, or from DWPose's files in a weights folder.
RAFT in it gives the flow (otherwise OpenCV's DIS), Stable Diffusion in it gives point features
(otherwise training computes them). Running the same command again continues where it stopped.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from dispose_jax import cli, control_signals, limits
from dispose_jax.correspondence import dift, keypoints
from dispose_jax.counting import counted
from dispose_jax.data import clip_choice, clip_extraction, examples, records
from dispose_jax.media import output, video
from dispose_jax.models import bundle, networks
from dispose_jax.motion import flow
from dispose_jax.ops.levels import to_float
from dispose_jax.pose import dwpose
from dispose_jax.pose.detector import Detector
from dispose_jax.types import Impulses, Pose
from dispose_jax.weights import RANDOM, Weights

SKIPPED = "skipped{}.jsonl"
SHOWN = 5  # skipped or changed videos that are named


@dataclass
class Summary:
    """What became of the videos of a shard."""

    videos: int
    made: int = 0  # videos prepared by this run
    kept: int = 0  # videos that were there already
    clips: int = 0  # of both
    skipped: dict[str, str] = field(default_factory=dict)  # video -> reason


def prepare(
    config,
    videos: Path,
    out: Path,
    *,
    weights: Sequence[str] = (),
    shard: tuple[int, int] = (0, 1),
    latents: bool = False,
    say: Callable[[str], None] = print,
) -> Summary:
    """Write the clips of a shard's videos into a set; what is there already stays.

    weights: bundle folders. shard (i, n): videos i, i + n, ... in the order of their names.
    latents: store the autoencoder's output instead of all pictures but the reference. Raises
    ValueError for settings, folders and weights that cannot be used, and if no video could be;
    OSError if the set cannot be written.
    """
    limits.check(config)
    recipe = clip_choice.recipe(config)
    names = _find(videos)[shard[0] :: shard[1]]
    tools, made_with = _tools(config, weights, latents, say)
    output.prepare(out / records.META)
    content = records.describe(
        config,
        flow=made_with.pop("flow"),
        features=tools.features is not None,
        latents=latents,
        weights=made_with,
    )
    records.open_set(out, content)
    summary = Summary(len(names))
    suffix = f"-{shard[0]:05d}-of-{shard[1]:05d}" if shard[1] > 1 else ""
    skipped = out / SKIPPED.format(suffix)
    skipped.unlink(missing_ok=True)
    todo = _to_do(names, videos, out, summary, say)
    with tqdm(total=len(names), initial=summary.kept, unit="video", disable=None) as bar:
        for name in todo:
            try:
                clips = [
                    records.encode(r) for r in clip_extraction.clips(recipe, tools, videos, name)
                ]
            except ValueError as error:
                summary.skipped[name] = " ".join(str(error).split())
                lines = [{"video": v, "reason": r} for v, r in summary.skipped.items()]
                output.write_bytes(skipped, b"".join(map(output.as_json, lines)))
            else:
                records.write(out, name, clips)
                summary.made, summary.clips = summary.made + 1, summary.clips + len(clips)
            bar.update()
            bar.set_postfix(clips=summary.clips, skipped=len(summary.skipped))
            if bar.disable:  # no terminal: lines instead of a bar
                print(_how_far(summary), file=sys.stderr, flush=True)
    if names and not summary.clips:
        raise ValueError(
            f"{videos}: none of {counted(len(names), 'video')} could be used; the first: "
            f"{summary.skipped[names[0]]} (all reasons are in {skipped})"
        )
    return summary


def _how_far(summary: Summary) -> str:
    skipped = len(summary.skipped)
    done = summary.kept + summary.made + skipped
    return f"video {done}/{summary.videos}: {counted(summary.clips, 'clip')}, {skipped} skipped"


def _find(videos: Path) -> list[str]:
    """The videos of a folder, by name. Raises ValueError if there are none."""
    if not videos.is_dir():
        raise ValueError(f"--videos {videos}: no such folder; give one that holds videos")
    names = clip_extraction.find(videos)
    if not names:
        raise ValueError(
            f"--videos {videos}: holds no videos; expected files that end in "
            f"{', '.join(video.SUFFIXES)}"
        )
    return names


def _to_do(
    names: Sequence[str], videos: Path, out: Path, summary: Summary, say: Callable[[str], None]
) -> list[str]:
    """The videos that the set has no clips of; the others are counted in the summary, and those
    that were changed since are told of."""
    todo, changed = [], []
    for name in names:
        count = records.existing(out, name)
        if count is None:
            todo.append(name)
            continue
        summary.kept, summary.clips = summary.kept + 1, summary.clips + count
        made = out / records.file_name(name, count)
        if newer := _newer(clip_extraction.sources(videos, name), made):
            changed.append((name, newer, made))
    if changed:
        say(_told_of_changes(changed))
    return todo


def _newer(sources: Sequence[Path], made: Path) -> Path | None:
    """The first of the sources that was changed after a file was made of them."""
    time = made.stat().st_mtime
    return next((source for source in sources if source.stat().st_mtime > time), None)


def _told_of_changes(changed: Sequence[tuple[str, Path, Path]]) -> str:
    """One warning, however many they are: after a copy that kept no times it is all of them.

    changed: (video, its source that was changed, the file of its clips), at least one.
    """
    (_, newer, made), *others = changed
    told = (
        f"warning: {newer} was changed after clips were made of it, which stay as they are; delete "
        f"{made} and run this again to make others"
    )
    if others:
        names = [name for name, *_ in others]
        dots = ", ..." if len(names) > SHOWN else ""
        told += (
            f"; the same of {counted(len(names), 'more video')}: {', '.join(names[:SHOWN])}{dots}"
        )
    return told


def _tools(
    config, given: Sequence[str], latents: bool, say: Callable[[str], None]
) -> tuple[clip_extraction.Finders, dict]:
    """What looks at pictures, and what that is: the flow's name and where weights come from."""
    if RANDOM in given:
        raise ValueError("--weights random: prepared data needs trained weights, or none")
    held = {name for folder in given for name in bundle.describe(folder)["networks"]}
    source = _flow_source(config, held)
    dtype = networks.compute_dtype(config.train.dtype)
    # The flow's are positions, which half precision would round to halves of a pixel.
    parts = networks.build(config, dtype) | {"raft": networks.flow_network()}
    wanted = {"vae"} if latents else set()
    wanted |= {"raft"} if source == "raft" else set()
    if config.control.points and held.issuperset(dift.NETWORKS):
        wanted |= {*dift.NETWORKS}
    if latents and "vae" not in held:
        raise ValueError("--latents needs the autoencoder: give --weights with a vae")
    parts = {name: part for name, part in parts.items() if name in wanted}
    store = Weights(given, parts, config)
    params = store.load(parts)
    features = "dift_unet" in parts
    tools = clip_extraction.Finders(
        detector=Detector(store.pose_folder, say),
        flow=_flow(source, parts, params, config.data.flow_short_side),
        chained=source == "dis",
        guides=_guides(config) if source else None,
        features=_features(config, parts, params) if features else None,
        posterior=_posterior(parts["vae"].module, params) if latents else None,
    )
    owners = bundle.owners(given, parts, model=config.model, quirks=config.quirks) if parts else {}
    made_with = {
        name: {
            **{key: entry[key] for key in ("sha256", "source")},
            "computed_in": jnp.dtype(parts[name].dtype).name,
        }
        for name, (_, entry) in owners.items()
    }
    if store.pose_folder is not None:
        files = [
            path for name in dwpose.RELEASED_AS if (path := store.pose_folder / name).is_file()
        ]
        made_with |= {path.name: {"sha256": _digest(path)} for path in files}
    return tools, {"flow": source, **made_with}


def _flow_source(config, held: set[str]) -> str | None:
    """ "raft" or "dis", None if no guides are wanted."""
    if not records.has_guides(config):
        return None
    if config.data.flow == "raft" and "raft" not in held:
        raise ValueError("data.flow is 'raft', but --weights holds no raft; give it, or use dis")
    return ("raft" if "raft" in held else "dis") if config.data.flow == "auto" else config.data.flow


def _flow(source: str | None, parts, params, short_side: int) -> flow.Estimator | None:
    """The optical flow of a clip by its name."""
    if source == "raft":
        estimate = partial(flow.raft, parts["raft"].module, params["raft"], short_side=short_side)
        return lambda frames: np.asarray(estimate(frames))
    return flow.dis if source else None


def _guides(config) -> Callable[[np.ndarray, int], Impulses]:
    """Watershed points of a clip's flows, for CMP."""
    return lambda flows, seed: examples.watershed_guides(config, flows, np.random.default_rng(seed))


def _features(config, parts, params) -> Callable[[np.ndarray, Pose, int], np.ndarray]:
    """Diffusion features of a reference at its joints."""
    recipe = control_signals.build(config, parts).dift
    params = {name: params[name] for name in dift.NETWORKS}
    grid = jax.jit(lambda params, picture, key: dift.features(recipe, params, picture, key))

    def features(picture: np.ndarray, pose: Pose, seed: int) -> np.ndarray:
        pixels = to_float(jnp.asarray(picture))
        found = grid(params, pixels, jax.random.key(seed))
        return np.asarray(keypoints.embed(found, pose, picture.shape[:2]), np.float16)

    return features


def _posterior(vae, params) -> Callable[[np.ndarray], np.ndarray]:
    """The autoencoder's mean and log variance, frame by frame: that bounds the memory."""

    @jax.jit
    def encode(params, frames):
        pixels = to_float(frames)
        moments = lambda x: jnp.concatenate(vae.apply({"params": params}, x, method="encode"), -1)
        return jax.lax.map(moments, pixels)

    return lambda frames: np.asarray(encode(params["vae"], frames), np.float16)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(config) -> None:
    given = flags.FLAGS
    for flag in ("videos", "out"):
        if not given[flag].value:
            raise ValueError(f"give --{flag} FOLDER")
    out = Path(given.out)
    summary = prepare(
        config,
        Path(given.videos),
        out,
        weights=given.weights or (),
        shard=cli.parse_shard(given.shard),
        latents=given.latents,
    )
    print(
        f"{counted(summary.clips, 'clip')} of {counted(summary.made + summary.kept, 'video')} in "
        f"{out}, {summary.kept} of them from before; "
        f"{len(summary.skipped)} of {counted(summary.videos, 'video')} skipped"
    )
    for name, reason in [*summary.skipped.items()][:SHOWN]:
        print(f"  {name}: {reason}")
    if len(summary.skipped) > SHOWN:
        print(f"  ... all of them are in {out / SKIPPED.format('*')}")


if __name__ == "__main__":
    flags.DEFINE_string("config", "configs/svd.py:size=small", "Configuration file, its argument.")
    flags.DEFINE_string("videos", None, "Folder of videos, searched with all below it.")
    flags.DEFINE_string("out", None, "Folder of the prepared set.")
    flags.DEFINE_list("weights", None, "Bundle folders; a later one overrides an earlier one.")
    flags.DEFINE_string("shard", "0/1", cli.SHARD)
    flags.DEFINE_bool("latents", False, "Store the autoencoder's output in place of pictures.")
    cli.run(main)
