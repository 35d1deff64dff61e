"""The values of a config that a run can work with (host code)."""

from __future__ import annotations

import math

from dispose_jax import settings

# Least and greatest sensible value; what depends on the clip is checked with it (sampling.check).
RANGES = {
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
    "train.face_weight": (0, 1e6),
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


def check(config) -> None:
    """Raise ValueError for the first value that no run can work with."""
    values = dict(settings.leaves(config))
    has = values.__contains__  # what it lacks is of the other base
    for name in filter(has, RANGES):
        check_range(name, values[name])
    for name in filter(has, CHOICES):
        _check_choice(name, values[name])
    _check_signals(values)
    _check_sampling(values)
    _check_training(values)
    _check_loss(values)


def check_range(name: str, value) -> None:
    """Raise ValueError unless a setting's number, or each of its numbers, is within its range."""
    low, high = RANGES[name]
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    wrong = [n for n in numbers if not isinstance(n, (int, float)) or not low <= n <= high]
    if wrong or not numbers:
        span = f"{low} or more" if high == math.inf else f"{low} to {high}"
        raise ValueError(f"{name} is {value!r}: expected {span}")


def _check_choice(name: str, value) -> None:
    """Raise ValueError unless a setting has one of its CHOICES."""
    if (tuple(value) if isinstance(value, list) else value) not in CHOICES[name]:
        expected = ", ".join(map(repr, CHOICES[name]))
        raise ValueError(f"{name} is {value!r}: expected one of {expected}")


def _check_signals(values: dict[str, object]) -> None:
    """Skeletons and what is derived from them; values by their dotted names, as below."""
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


def _check_sampling(values: dict[str, object]) -> None:
    """What sampling settings mean together."""
    if values["sample.overlap"] >= values["sample.window"]:
        raise ValueError(
            f"sample.overlap is {values['sample.overlap']}: expected less than sample.window, "
            f"{values['sample.window']}"
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


def _check_training(values: dict[str, object]) -> None:
    """The clips that training sees, and how it disturbs them."""
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
    for name in ("train.width", "train.height"):
        if values[name] % 64:
            raise ValueError(f"{name} is {values[name]}: expected a multiple of 64")
    heights = values["data.heights"]
    if len(heights) != 2 or heights[0] > heights[1]:
        raise ValueError(
            f"data.heights is {heights!r}: expected the lowest and the highest, as (0.68, 0.92)"
        )


def _check_loss(values: dict[str, object]) -> None:
    """Where a loss can be weighed by place."""
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
    if values["train.face_weight"] != 1 and (
        values["train.objective"] != "autoencoder" or values["data.source"] not in ("", "synthetic")
    ):
        raise ValueError(
            f"train.face_weight is {values['train.face_weight']}: only an autoencoder that learns "
            "from drawn people, data.source=synthetic, is told where a face is; leave it out"
        )
