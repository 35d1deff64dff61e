"""A run's configuration: read from its file, changed from the command line, checked (host code).

A config is a Python file with get_config(argument), see configs/. `--config.section.key=value`
changes one value and is read as the type that the value has. Every mistake is a ValueError of one
sentence.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent  # where configs/ lies in an installed package
CHECKOUT = PACKAGE.parent  # and in a checkout
OVERRIDE = re.compile(r"--?config\.([^=]+)(?:=(.*))?", re.DOTALL)
# A Path has one slash less than was given: there only what nobody calls a folder or an arm.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(gs|gcs|s3|az|abfss?|hdfs|https?|ftp|file|hf):/")
TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

# Least and greatest sensible value; what depends on the clip is checked with it (sampling.check).
LIMITS = {
    "seed": (0, 2**32 - 1),
    "motion.kernel": (1, math.inf),
    "motion.sigma": (0.01, math.inf),
    "motion.chunk": (1, math.inf),
    "sample.height": (0, math.inf),
    "sample.width": (0, math.inf),
    "sample.shown_height": (0, 8192),
    "sample.stride": (1, math.inf),
    "sample.person": (0, 1000),
    "sample.window": (2, math.inf),
    "sample.overlap": (0, math.inf),
    "sample.steps": (1, math.inf),
    "sample.window_stride": (1, 30),
    "sample.sigma_max": (1e-3, 1e6),
    "sample.sigma_min": (1e-6, 1e3),
    "sample.guidance_scale": (0, 1000),
    "sample.guidance_interval": (0, math.inf),
    "sample.cache_interval": (1, math.inf),
    "sample.noise_aug": (0, 100),
    "sample.conditioning_fps": (1, 1000),
    "sample.motion_bucket": (0, 1023),
    "sample.control_scale": (-1000, 1000),
    "sample.decode_chunk": (1, math.inf),
    "sample.fps": (0, 1000),
    "sample.window_batch": (1, math.inf),
    "skeleton.canvas": (16, 8192),
    "train.steps": (1, math.inf),
    "train.batch": (1, math.inf),
    "train.accumulate": (1, math.inf),
    "train.frames": (1, math.inf),
    "train.width": (64, math.inf),
    "train.height": (64, math.inf),
    "train.encode_chunk": (1, math.inf),
    "train.sigma_std": (0, 100),
    "train.noise_aug": (-100, 100),
    "train.noise_offset": (0, 10),
    "train.drop_rate": (0, 1),
    "train.point_drop_rate": (0, 1),
    "train.region_weight": (0, 1e6),
    "train.kl_weight": (0, 1e6),
    "train.figure_weight": (0, 1e6),
    "train.learning_rate": (0, 1e3),
    "train.warmup": (0, math.inf),
    "train.b1": (0, 0.9999),
    "train.b2": (0, 0.9999),
    "train.epsilon": (0, 1),
    "train.weight_decay": (0, 1e3),
    "train.clip": (1e-9, math.inf),
    "train.mesh.data": (0, math.inf),
    "train.mesh.fsdp": (1, math.inf),
    "train.mesh.frames": (1, math.inf),
    "train.mesh.smallest": (0, math.inf),
    "train.average": (0, 1),
    "train.log_every": (1, math.inf),
    "train.save_every": (0, math.inf),
    "train.keep": (1, math.inf),
    "train.sample_every": (0, math.inf),
    "train.validate_every": (0, math.inf),
    "data.apart": (0, 1),
    "data.heights": (0.01, 2),
    "data.held_out": (0, math.inf),
    "data.clips_per_video": (1, math.inf),
    "data.stride": (1, math.inf),
    "data.ref_window": (0, math.inf),
    "data.flow_short_side": (128, math.inf),
    "data.guide_kernel": (1, math.inf),
    "data.guide_bg_ratio": (1e-9, 1),
    "data.max_guides": (1, math.inf),
    "data.workers": (0, math.inf),
    "data.prefetch": (1, math.inf),
}
CHOICES = {
    "sample.audio": (True, False),
    "skeleton.fit": ("mimicmotion", "musepose", "moore"),
    "skeleton.style": ("mimicmotion", "musepose", "moore"),
    "sample.decode_rest": ("short", "whole"),
    "sample.solver": ("euler", "heun", "dpmpp_2m"),
    "sample.sigmas": ("karras", "ays"),
    "sample.timesteps": ("uniform", "ays"),
    "sample.betas": ("linear", "scaled_linear"),
    "sample.dtype": ("auto", "float32", "bfloat16", "float16"),
    "control.motion": ((), ("sparse",), ("dense",), ("sparse", "dense")),
    "control.motion_into": ("controlnet", "unet"),
    "control.points_into": ("controlnet", "unet"),
    "train.objective": ("video", "autoencoder", "image", "cmp"),
    "train.sigmas": ("lognormal", "cosine", "times"),
    "train.control_start": ("auto", "unet", "svd_encoder", "dift_unet"),
    "train.dropout": ("joint", "svd_xtend"),
    "train.region": ("none", "hands", "face", "joints", "limbs"),
    "train.guides": ("flow", "joints"),
    "train.start": ("released", "shallow"),
    "train.optimizer": ("adamw", "muon"),
    "train.decay": ("constant", "cosine"),
    "train.dtype": ("auto", "float32", "bfloat16"),
    "train.remat": ("none", "layer"),
    "data.reference": ("near", "first"),
    "data.flow": ("auto", "raft", "dis"),
    "quirks.residuals": ("accumulated", "once"),
    "quirks.time_context_order": ("released", "per_clip"),
    "quirks.missing_joints": ("released", "drop"),
    "quirks.point_levels": ("released", "paper", "finest"),
}


def load(argument: str):
    """The config of "file.py" or "file.py:argument".

    A relative path is looked for here, then in the checkout or the installed package. Raises
    ValueError if there is no such file or it is no config, and what get_config raises.
    """
    name, colon, rest = argument.partition(":")
    path = next((p for p in (Path(name), CHECKOUT / name, PACKAGE / name) if p.is_file()), None)
    spec = path and importlib.util.spec_from_file_location("dispose_jax_config", path)
    if spec is None:
        found = "no such file" if path is None else "not a Python file"
        raise ValueError(
            f"--config {argument}: {found}; expected one such as configs/svd.py, with an argument "
            "after a colon if wanted"
        )
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(CHECKOUT))  # a config imports configs.common, wherever we were started
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {argument}: not valid Python: {error}") from error
    finally:
        sys.path.remove(str(CHECKOUT))
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config {argument}: the file has no function get_config(argument)")
    return module.get_config(rest if colon else None)


def at_home(arguments: Sequence[str] | None = None) -> list[str]:
    """Arguments, by default the command line's, with the ~ of --flag=~/a,~/b replaced, which a
    shell leaves alone there."""
    home = lambda match: os.path.expanduser(match[0])
    return [
        re.sub(r"(?<=[=,])~[\w.-]*(?=/|,|$)", home, argument) if argument[:1] == "-" else argument
        for argument in (sys.argv[1:] if arguments is None else arguments)
    ]


def filled(text: str) -> str:
    """A flag's value, as argparse takes it. Raises ArgumentTypeError for an empty one, as of a
    shell's variable that is not set: it would stand for the flag's absence, or for this folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give it a value, or leave it out")
    return text


def path(text: str) -> Path:
    """The same of a file or folder."""
    return Path(filled(text))


def take_overrides(arguments: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Command line -> overrides (name, text) and the other arguments.

    Both --config.name=text and --config.name text are understood; text is None for a name alone.
    """
    overrides, others, rest = [], [], list(arguments)
    while rest:
        match = OVERRIDE.fullmatch(rest[0])
        if match is None:
            others.append(rest[0])
        elif match[2] is None and len(rest) > 1 and not rest[1].startswith("--"):
            overrides.append((match[1], rest.pop(1)))
        else:
            overrides.append((match[1], match[2]))
        rest.pop(0)
    return overrides, others


def override(config, name: str, text: str | None) -> None:
    """Set one value, named as in "sample.steps", in place.

    Raises ValueError for a name that is not there, with the closest one, and for a text that is
    not of the value's type.
    """
    flag = f"--config.{name}"
    if name == "train.stage":
        raise ValueError(f"{flag} is only told; choose it as --config FILE:stage={text}")
    known = [other for other, _ in leaves(config)]
    if name not in known:
        inside = [other for other in known if other.startswith(f"{name}.")]
        if inside:
            raise ValueError(f"{flag} is a group of settings; name one, such as {inside[0]}")
        close = like(config, name) or difflib.get_close_matches(name, known, 1)
        meant = " or ".join(f"--config.{other}" for other in close)
        hint = f"did you mean {meant}?" if close else "the config's file lists them all"
        raise ValueError(f"{flag}: there is no such setting; {hint}")
    *sections, key = name.split(".")
    node = config
    for section in sections:
        node = node[section]
    node[key] = _value(flag, text, node.get_type(key), node[key])


def refuse_void(config, given: Collection[str]) -> None:
    """Raise ValueError for a value that was given by its name and that others make void."""
    if "sample.resolution" in given and config.sample.height:
        raise ValueError(
            "--config.sample.resolution changes nothing where sample.height and sample.width "
            f"are set, to {config.sample.height} and {config.sample.width}; change these"
        )


def refuse_addresses(given: Mapping[str, object]) -> None:
    """Raise ValueError for an address such as gs://bucket/x, which a path would take for a folder
    here.

    given: texts, paths or lists of them by the flag, or other name, that has them.
    """
    for flag, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            for text in str(one).split(","):
                if isinstance(one, (str, Path)) and ADDRESS.match(text):
                    raise ValueError(
                        f"{flag} {text}: only paths of this machine can be used; download the "
                        "file, or mount the bucket (for gs:// with gcsfuse), and give its path here"
                    )


def like(config, name: str) -> list[str]:
    """The settings with a name's last part: of "steps" and "sampling.steps" all that end so."""
    key = name.rpartition(".")[2]
    return [other for other, _ in leaves(config) if other.rpartition(".")[2] == key]


def leaves(config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """All values by their dotted names."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def check(config) -> None:
    """Raise ValueError for the first value that no run can work with."""
    values = dict(leaves(config))
    for name in LIMITS:
        if name in values:  # else of the other base
            check_limits(name, values[name])
    for name, choices in CHOICES.items():
        if name not in values:
            continue
        value = values[name]
        if (tuple(value) if isinstance(value, list) else value) not in choices:
            raise ValueError(
                f"{name} is {value!r}: expected one of {', '.join(map(repr, choices))}"
            )
    if values["sample.overlap"] >= values["sample.window"]:
        raise ValueError(
            f"sample.overlap is {values['sample.overlap']}: expected less than sample.window, "
            f"{values['sample.window']}"
        )
    if values["motion.cmp_size"] < 64 or values["motion.cmp_size"] % 64:
        raise ValueError(
            f"motion.cmp_size is {values['motion.cmp_size']}: expected a multiple of 64"
        )
    for name in ("motion.kernel", "data.guide_kernel"):
        if values[name] % 2 == 0:
            raise ValueError(f"{name} is {values[name]}: expected odd")
    hidden = values["skeleton.hidden"]
    if any(not isinstance(joint, int) or joint not in range(18) for joint in hidden):
        raise ValueError(
            f"skeleton.hidden is {hidden!r}: expected joints from 0 to 17, such as (4, 7, 10, 13)"
        )
    if values["train.dropout"] == "svd_xtend" and values["train.drop_rate"] > 1 / 3:
        raise ValueError(
            f"train.drop_rate is {values['train.drop_rate']}: expected a third at most, as "
            "train.dropout=svd_xtend drops each of two conditions and both with that probability"
        )
    noise = values.get("train.noise_aug", 0)  # of the first base
    if len(noise) != 2 if isinstance(noise, (tuple, list)) else noise < 0:
        raise ValueError(
            f"train.noise_aug is {noise!r}: expected a deviation of 0 or more, or mean and "
            "deviation of its logarithm, as -3,0.5"
        )
    if values["train.frames"] < 2 and values["train.objective"] in ("video", "cmp"):
        raise ValueError(
            f"train.frames is {values['train.frames']}: expected 2 or more, the reference and what "
            "is made of it"
        )
    region = values["train.region"]
    if region != "none" and values["train.objective"] != "video":
        raise ValueError(
            f"train.region is {region!r}, which stage={values['train.stage']} does not look at: "
            "only losses of videos are weighed by place; leave it out"
        )
    if region in ("hands", "face") and values["data.source"] == "synthetic":
        raise ValueError(
            f"train.region is {region!r}: drawn people have neither hands nor a face that poses "
            "know; choose 'joints' or 'limbs'"
        )
    for name in ("train.width", "train.height"):
        if values[name] % 64:
            raise ValueError(f"{name} is {values[name]}: expected a multiple of 64")
    heights = values["data.heights"]
    if len(heights) != 2 or heights[0] > heights[1]:
        raise ValueError(
            f"data.heights is {heights!r}: expected the lowest and the highest, as (0.68, 0.92)"
        )
    if values["sample.max_frames"] < 0 or values["sample.max_frames"] == 1:
        raise ValueError(
            f"sample.max_frames is {values['sample.max_frames']}: expected 0 (all), 2 or more"
        )
    if 0 < values["sample.fps"] < 0.01:  # would round to none
        raise ValueError(
            f"sample.fps is {values['sample.fps']}: expected 0 (of the source), 0.01 or more"
        )
    if values.get("sample.sigma_min", 0) >= values.get("sample.sigma_max", 1):
        raise ValueError(
            f"sample.sigma_min is {values['sample.sigma_min']}: expected less than "
            f"sample.sigma_max, {values['sample.sigma_max']}"
        )
    low, *high = values["sample.guidance_interval"]
    if len(high) != 1 or low >= high[0]:
        raise ValueError(
            f"sample.guidance_interval is {values['sample.guidance_interval']}: expected two noise "
            "levels, the lower one first, such as (0, inf)"
        )
    height, width = values["sample.height"], values["sample.width"]
    if bool(height) != bool(width):
        raise ValueError(
            f"sample.height is {height} and sample.width {width}: give both, or neither and "
            "sample.resolution"
        )


def check_limits(name: str, value) -> None:
    """Raise ValueError unless a setting's number, or each of its numbers, is within LIMITS."""
    low, high = LIMITS[name]
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    wrong = [n for n in numbers if not isinstance(n, (int, float)) or not low <= n <= high]
    if wrong or not numbers:
        span = f"{low} or more" if high == math.inf else f"{low} to {high}"
        raise ValueError(f"{name} is {value!r}: expected {span}")


def _value(flag: str, text: str | None, kind: type, now):
    """A text as a value of a type; `object` stands for a number or several. now: what it replaces,
    the example for a list."""
    if text is None:
        if kind is bool:
            return True
        raise ValueError(f"{flag} needs a value: {flag}=VALUE")
    try:
        if kind is bool:
            return TRUTH[text.lower()]
        if kind is float:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
            return value
        if kind in (int, str):
            return kind(text)
        value = ast.literal_eval(re.sub(r"\binf\b", "1e999", text))
        if kind is tuple and isinstance(value, str):  # ("unet") lacks its comma, and is no letters
            value = (value,)
        return tuple(value) if kind is tuple or isinstance(value, (tuple, list)) else value
    except (ValueError, KeyError, SyntaxError, TypeError) as error:
        a_list = str(now or (1, 2)).replace("'", '"')  # to stand within a shell's '...'
        expected = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            tuple: f"a list such as '{a_list}'",
        }.get(kind, "a number, or a pair such as 1,3")
        raise ValueError(f"{flag} is {text!r}: expected {expected}") from error
