"""What the configurations share: reading the argument, the paper's ablations, most defaults.

A config is a file with get_config(arg); the argument, after a colon, is a list of name=value:
`--config configs/svd.py:variant=no_motion,size=tiny`.
"""

from __future__ import annotations

import math

from ml_collections import ConfigDict, FieldReference

# Sides of the pictures of the sizes that learn from drawn people on two CPU cores. They have the
# same networks: tiny is for tests, small to be looked at.
SIDES = {"tiny": 64, "small": 128}
GUIDANCE = {"full": 2.0, "small": 1.3, "tiny": 1.0}  # small: measured, docs/small_world.md
SIZES = ("full", *SIDES)

# Networks that do not depend on the base, at full size and of drawn people.
FULL = {
    "motion_encoder": {"widths": (16, 32, 96, 256)},
    "point_encoder": {"width": 128},
    "dift": {  # Stable Diffusion 1.5, read for diffusion features
        "channels": (320, 640, 1280, 1280),
        "heads": (8, 8, 8, 8),
        "layers": 2,
        "groups": 32,
        "vae_widths": (128, 256, 512, 512),
        "vae_layers": 2,
        "latent_channels": 4,
        "scale": 0.18215,
        "vocabulary": 49408,
        "text_width": 768,
        "text_layers": 12,
        "text_heads": 12,
        "text_hidden": 3072,
    },
    "cmp": {
        "layers": (3, 4, 6, 3),
        "image_features": 256,
        "sparse_features": 16,
        "bins": 99,
        "fmax": 50.0,
        "base_width": 64,
        "decoder_width": 128,
    },
}
TINY = {
    "motion_encoder": {"widths": (8, 16, 32, 64)},
    "point_encoder": {"width": 64},
    "dift": {
        "channels": (32, 64, 64, 64),
        "heads": (2, 2, 2, 2),
        "layers": 1,
        "groups": 2,
        "vae_widths": (16, 32, 64, 96),
        "vae_layers": 1,
        "latent_channels": 16,
        "scale": 1.0,
        "vocabulary": 49408,
        "text_width": 8,
        "text_layers": 1,
        "text_heads": 2,
        "text_hidden": 16,
    },
    "cmp": {
        "layers": (1, 1, 1, 1),
        "image_features": 32,
        "sparse_features": 16,
        "bins": 81,
        "fmax": 40.0,
        "base_width": 12,
        "decoder_width": 32,
    },
}

# Networks of a base that both have in this form.
VAE = {
    "widths": (128, 256, 512, 512),
    "latent_channels": 4,
    "layers": 2,
    "groups": 32,
    "scale": 0.18215,  # latents are this times the autoencoder's
}
TINY_VAE = {
    "widths": (16, 32, 64, 96),
    "latent_channels": 16,
    "layers": 1,
    "groups": 2,  # few: norms over less than eight channels lose the colours
    "scale": 1.0,  # the training gives every latent channel unit power
}
TINY_IMAGE_ENCODER = {
    "width": 64,
    "layers": 2,
    "heads": 4,
    "hidden": 256,
    "projection": 64,
    "patch": 16,
    "image_size": 64,
    "activation": "gelu",
}
# What a text book would do, and our own models; "released" is what DisPose's weights had.
TEXTBOOK = {
    "residuals": "once",  # each ControlNet residual; "accumulated": early ones up to four times
    "missing_joints": "drop",  # of motion fields; "released": such a joint moves to the corner
    # a map of points per level; "released": one map, resized; "finest": also one for the latents
    "point_levels": "paper",
}

# How the small networks learn on a CPU: steps, clips, frames of a clip, learning rate, optimizer.
TINY_STAGES = {
    "image": (1500, 32, 1, 2e-3, "muon"),
    "cmp": (2500, 8, 3, 4e-3, "adamw"),
    "vae": (3000, 4, 2, 2e-3, "muon"),
    "decoder": (2000, 1, 8, 1e-3, "muon"),
}
# Stages of the networks that do not depend on the base: what learns, and what is minimised
# (training/objectives.py).
STAGES = {
    "image": (("dift_unet", "dift_text_encoder"), "image"),
    "cmp": (("cmp",), "cmp"),
    "vae": (("vae",), "autoencoder"),
    "decoder": (("vae",), "autoencoder"),  # on a frozen encoder, whole windows at a time
}

# Rows of the paper's ablation table: which signals exist and where they enter.
_BOTH = ("sparse", "dense")
CONTROL = {
    "full": {"motion": _BOTH, "points": True},
    "no_motion": {"motion": (), "points": True},
    "no_point": {"motion": _BOTH, "points": False},
    "no_cmp": {"motion": ("sparse",), "points": True},
    "exp1": {"motion": _BOTH, "points": True, "motion_into": "unet"},
    "exp2": {"motion": _BOTH, "points": True, "motion_into": "unet", "points_into": "unet"},
    "base": {"motion": (), "points": False},
}


# Speeds of sampling: the shares of the exact run's steps and overlap, and other values of `sample`.
# What each gains and costs is in docs/performance.md.
SPEEDS = {
    "exact": (1, 1, {}),
    "fast": (1 / 2, 1, {"solver": "dpmpp_2m", "cache_interval": 2}),
    "draft": (3 / 8, 2 / 3, {"solver": "dpmpp_2m", "cache_interval": 3}),
}


def at_speed(sample: ConfigDict, speed: str, spacing: str) -> None:
    """Change the exact values of `config.sample` to those of a speed.

    spacing: the base's name for the spacing of levels, which are aligned in a faster run.
    """
    steps, overlap, values = SPEEDS[speed]
    sample.steps = round(steps * sample.steps)
    sample.overlap = round(overlap * sample.overlap)
    sample.update(values)
    if values:
        sample[spacing] = "ays"


def control(variant: str) -> dict:
    """The `config.control` of a variant of the paper."""
    fields = CONTROL[variant]
    return {
        "motion": fields["motion"],  # fields of the motion guidance
        "points": fields["points"],  # whether there is keypoint correspondence
        "motion_into": fields.get("motion_into", "controlnet"),  # what the motion field enters
        "points_into": fields.get("points_into", "controlnet"),  # what the point features enter
    }


def learnt(control: dict) -> tuple[str, ...]:
    """The networks of DisPose that a `config.control` has; those of the paper's training."""
    places = [control["motion_into"]] if control["motion"] else []
    places += [control["points_into"]] if control["points"] else []
    return (
        *(("controlnet",) if "controlnet" in places else ()),
        *(("motion_encoder",) if control["motion"] else ()),
        *(("point_encoder",) if control["points"] else ()),
    )


def defaults(choice: dict[str, str], stages: dict, recipes: dict) -> ConfigDict:
    """What both bases have, for a choice of size, variant and stage.

    stages: name -> networks that learn, and what is minimised (training/objectives.py). recipes:
    name -> steps, clips, frames of a clip, learning rate and optimizer of its training.
    """
    stage, side = choice["stage"], SIDES.get(choice["size"])
    config = ConfigDict()
    config.seed = 42  # of all random numbers
    # A base is trained before there is anything of DisPose.
    is_base = stages[stage][1] == "video" and stage != "dispose"
    config.control = control("base" if is_base else choice["variant"])
    config.skeleton, config.motion, config.dift = _skeleton(side), _motion(side), _dift(side)
    config.sample = _sample(choice["size"], side)
    config.train = _train(stage, side, stages[stage], recipes[stage])
    if stage == "dispose":  # of what learns, what the variant has
        config.train.trainable = learnt(config.control)
    config.data = _data(side, config.train.objective)
    return config


def _skeleton(side: int | None) -> ConfigDict:
    """Skeleton pictures. side: of pictures of drawn people, None at full size, as below."""
    skeleton = ConfigDict()
    skeleton.fit = "mimicmotion"  # how driving poses come to the reference's body
    skeleton.style = "mimicmotion"  # how they are drawn
    # Joints 0 to 17 that are not drawn, such as (4, 7, 10, 13), wrists and ankles: what the base is
    # not told, control signals know nevertheless.
    skeleton.hidden = ()
    skeleton.canvas = 256 if side else 2160  # short side painted on: strokes are 8 of its pixels
    return skeleton


def _motion(side: int | None) -> ConfigDict:
    """Motion fields."""
    drawn = side is not None
    motion = ConfigDict()
    motion.kernel = {64: 23, 128: 45}.get(side, 199)  # of the sparse field's Gaussian, odd, pixels
    motion.sigma = 9 / 256 * side if drawn else 20.0  # deviation of it: follows the short side
    motion.cmp_size = 64 if drawn else 384  # side of the square that CMP works in, a multiple of 64
    motion.chunk = 8  # frames completed at a time
    return motion


def _dift(side: int | None) -> ConfigDict:
    """Diffusion features of keypoints."""
    drawn = side is not None
    dift = ConfigDict()
    dift.prompt = "photo of a human"  # that Stable Diffusion is told
    dift.tokenizer = ""  # folder of SD1.5's tokenizer, needed for any other prompt
    dift.timestep = 261  # of 1000: how far the reference is noised
    dift.up_block = 1  # whose output is read: 1/16 of the picture
    dift.ensemble = 2 if drawn else 8  # draws of the noise
    dift.chunk = 2 if drawn else 4  # draws in memory at a time
    return dift


def _sample(size: str, side: int | None) -> ConfigDict:
    """Sampling."""
    drawn = side is not None
    sample = ConfigDict()
    sample.resolution = side if drawn else 576  # short side; the other one keeps 9 : 16
    sample.height = side if drawn else 0  # both or neither: override resolution
    sample.width = side if drawn else 0  # with height
    # 0: the reference is cropped to the size. Else it is stretched to it, and finished frames get
    # its shape again, so many pixels high.
    sample.shown_height = 0
    sample.stride = 2  # every n-th driving frame, times one more per 24 fps of the source
    sample.max_frames = 0  # driving frames used, after the stride; 0: all
    sample.person = 0  # whose motion is taken where there are several: 0 is the most prominent one
    sample.draw_others = True  # as released, where the base draws everybody; False: this one alone
    sample.window = 8 if drawn else 16  # frames denoised together
    sample.overlap = 3 if drawn else 6  # frames that neighbouring windows share
    sample.window_pad = False  # repeat the last pose until windows end with the clip
    sample.steps = 8 if drawn else 25  # of denoising
    sample.solver = "euler"  # as released; or of second order: heun (two calls a step), dpmpp_2m
    # Of guidance: a number, or one for the first and one for the last frame. 1 turns it off; less
    # leaves part of the reference out, down to 0, where the released pipelines take 1.
    sample.guidance_scale = FieldReference(GUIDANCE[size], field_type=object)
    # Noise over signal above the first and up to the second number; outside, half the work.
    sample.guidance_interval = (0.0, math.inf)
    # Deep features and the ControlNet are computed every n-th call and left to the others. At full
    # size they take about 1 GiB of the device for every window.
    sample.cache_interval = 1
    sample.control_scale = 1.0  # factor of the ControlNet's residuals
    sample.decode_chunk = 8  # frames decoded together, which see each other
    # Frames left over are decoded as a whole chunk, or alone.
    sample.decode_rest = "whole" if drawn else "short"
    sample.fps = 0.0  # of the written video; 0: the source's over the stride used
    sample.audio = True  # the driving video's sound in the written one
    sample.window_batch = 1  # windows at a time on each device
    sample.dtype = "auto"  # of the networks: bfloat16 on GPU and TPU, float32 on CPU
    return sample


def _train(stage: str, side: int | None, task: tuple, recipe: tuple) -> ConfigDict:
    """Training; task, recipe: of the stage, as `defaults` says."""
    drawn = side is not None
    steps, batch, frames, rate, optimizer = recipe
    train = ConfigDict()
    train.stage = stage  # what is trained: chosen in the config's argument
    train.objective = task[1]  # what is minimised (training/objectives.py)
    train.trainable = task[0]  # networks that learn
    train.decoder_only = stage == "decoder"  # of an autoencoder
    train.steps = steps  # after which the run is finished
    train.batch = batch  # clips of a step, over all devices
    train.accumulate = 1  # parts that a step's batch is worked through in
    train.frames = frames  # of a clip, the reference included
    train.width = side if drawn else 768  # of the clips, a multiple of 64
    train.height = side if drawn else 1024  # of the clips, a multiple of 64
    # Frames of every clip through the autoencoder at a time; a large one fills any device.
    train.encode_chunk = 16 if drawn else 1
    train.start = "shallow" if drawn else "released"  # of fresh networks (training/state.py)
    # Whose encoder a ControlNet starts as a copy of: the base's own "unet"; "svd_encoder", as the
    # paper, or "auto", that where the weights have it, both on SVD; "dift_unet" on SD1.5.
    train.control_start = "unet"
    train.copy_add_embedding = True  # ControlNet; the released one starts this part at random

    # What is minimised.
    train.sigmas = "lognormal"  # distribution of the noise levels
    train.sigma_mean = 1.0 if drawn else 0.7  # of the levels' logarithm, for lognormal
    train.sigma_std = 1.2 if drawn else 1.6  # deviation of that logarithm
    train.noise_offset = 0.0  # of a clip's noise, the same for all pixels and frames
    train.dropout = "joint"  # what guidance takes away is dropped together; or SVD_Xtend's
    train.drop_rate = 0.1  # of what guidance takes away
    train.point_drop_rate = 0.0  # of joints, left out for a whole clip
    train.region = "none"  # where the loss weighs more
    train.region_weight = 4.2  # how many times as much it weighs wholly inside
    train.skip_reference = False  # leave frame 0 out of the loss
    train.spatial_only = False  # every frame is a picture of its own: temporal layers are skipped
    train.guides = "joints" if drawn else "flow"  # of CMP: joints, or watershed points of flow
    train.kl_weight = 1e-4  # autoencoder: of the pull to a normal posterior
    train.figure_weight = 3.0  # autoencoder and cmp: of the person's pixels, where known
    train.face_weight = 1.0  # autoencoder of drawn people: of the face, times the figure's

    # How it is minimised. Not stated in the paper: SVD_Xtend's and MusePose's values.
    train.optimizer = optimizer  # AdamW, or Muon for matrices
    train.learning_rate = rate  # after the warm-up
    train.warmup = 100 if drawn else 500  # steps in which the rate rises from 0
    train.decay = "cosine" if drawn else "constant"  # of the rate
    train.average = 0.0  # decay of the weights' moving average, which the bundle gets; 0: the last
    train.b1 = 0.9  # decay of the mean of gradients
    train.b2 = 0.99 if drawn else 0.999  # decay of the mean of their squares
    train.epsilon = 1e-8  # added to the root of that mean
    # Of the weights, times the rate.
    train.weight_decay = 0.0 if drawn or train.decoder_only else 1e-2
    train.clip = 1.0  # largest norm of the gradient

    train.dtype = "auto"  # of the arithmetic; what learns is kept in float32
    train.remat = "none" if drawn else "layer"  # gradients compute every layer again, or nothing
    train.mesh = ConfigDict()
    train.mesh.data = 0  # devices that share out the clips; 0: all that are left
    train.mesh.fsdp = 1  # devices that also share out the parameters
    train.mesh.frames = 1  # devices that share out the frames of a clip
    train.mesh.smallest = 4.0  # MiB; smaller tensors are on every device

    train.log_every = 10  # steps between lines of metrics
    train.save_every = 200 if drawn else 500  # steps between checkpoints; 0: at the end
    train.keep = 2  # checkpoints on disk
    train.sample_every = 500 if drawn else 1000  # steps between pictures of the progress; 0: none
    # Steps between losses of clips that are held out, with the same noise each time; 0: none.
    train.validate_every = 500 if drawn else 1000
    return train


def _data(side: int | None, objective: str) -> ConfigDict:
    """Training data."""
    drawn = side is not None
    data = ConfigDict()
    data.source = "synthetic" if drawn else ""  # drawn people, or a folder of data.prepare
    # Of synthetic clips, the share whose reference stands in a way of its own.
    data.apart = 0.9 if objective == "video" else 0.5
    # Of drawn people, in those of the picture.
    data.heights = (0.8, 0.98) if side == 128 else (0.68, 0.92)
    # Clips that only pictures of the progress and validation see: of a set whole videos' clips, at
    # least so many, are kept back; drawn people are others. 0: none are kept back or validated on.
    data.held_out = 16
    data.clips_per_video = 8  # cut from each
    data.stride = 2  # every n-th frame, times one more per 24 fps
    data.reference = "near"  # where frame 0 comes from: ref_window frames around, or "first"
    data.ref_window = 64  # frames around a clip that may be its reference
    data.flow = "auto"  # optical flow: raft, dis, or raft where the weights have it
    data.flow_short_side = 384  # pixels of the frames whose flow is looked for
    data.guide_kernel = 15  # pixels that a watershed point dominates, odd
    data.guide_bg_ratio = 1 / 6400  # share of pixels that are points anyway
    data.max_guides = 256  # guidance points of a frame
    data.workers = 0  # processes that read, or paint drawn people's skeletons; 0: threads
    data.prefetch = 16  # examples read ahead
    return data


def parse_arg(arg: str | None, **choices: tuple[str, ...]) -> dict[str, str]:
    """`name=value,...` -> {name: value} with a value for each choice, the first one by default.

    Raises ValueError naming an unknown name or value and what is possible, and a name that is given
    twice.
    """
    given = {}
    for part in filter(None, map(str.strip, (arg or "").split(","))):
        name, separator, value = part.partition("=")
        if name not in choices or not separator:
            raise ValueError(
                f"config argument {part!r}: expected NAME=VALUE with a NAME of "
                f"{', '.join(sorted(choices))}"
            )
        if value not in choices[name]:
            raise ValueError(
                f"config argument {part!r}: {name} is one of {', '.join(choices[name])}"
            )
        if name in given:
            raise ValueError(f"config argument {part!r}: {name} is given twice; leave one out")
        given[name] = value
    return {name: options[0] for name, options in choices.items()} | given
