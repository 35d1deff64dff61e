"""DisPose on MusePose (Stable Diffusion 1.5), and MusePose or Moore-AnimateAnyone alone.

  python sample.py --config configs/sd15.py --weights DIR --reference ref.png --driving dance.mp4
  python sample.py --config configs/sd15.py:variant=base,release=moore --weights DIR ...
  python train.py --config configs/sd15.py --weights DIR --workdir runs/mp --config.data.source=SET

size: full (the released checkpoints), or small or tiny (a laptop's, of 128 and 64 pixels). release:
whose numbers the base is run with. speed: exact (as released), or fast or draft, which cost quality
(docs/performance.md). variant: the paper's ablations. stage: what is trained; the defaults of
dispose are the paper's (section 5.1: 20,000 steps, batch 32, learning rate 1e-5, 16 frames of 512 x
512), those of base and motion Moore-AnimateAnyone's. What the paper leaves open is decided in
docs/musepose.md.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from configs.common import CONTROL, defaults, parse_arg

FULL = {
    **common.FULL,
    "unet": {  # denoiser and reference alike
        "channels": (320, 640, 1280, 1280),
        "heads": (8, 8, 8, 8),
        "layers": 2,
        "groups": 32,
    },
    "motion_modules": {"heads": 8, "groups": 32, "positions": 128},
    "pose_encoder": {"widths": (16, 32, 96, 256)},
    "vae": {**common.VAE, "temporal": False},
    "image_encoder": {  # CLIP ViT-L/14
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "hidden": 4096,
        "projection": 768,
        "patch": 14,
        "image_size": 224,
        "activation": "quick_gelu",
    },
}

TINY = {
    **common.TINY,
    "unet": {
        "channels": (56, 88, 112),
        "heads": (2, 4, 4),
        "layers": 1,
        "groups": 8,
    },
    "motion_modules": {"heads": 2, "groups": 8, "positions": 32},
    "pose_encoder": {"widths": (8, 16, 32, 64)},
    "vae": {**common.TINY_VAE, "temporal": True},  # the first base's, as it is
    "image_encoder": common.TINY_IMAGE_ENCODER,
}

# Stages of training: what learns, and what is minimised (training/objectives.py).
STAGES = {
    "dispose": (("controlnet", "motion_encoder", "point_encoder"), "video"),
    "base": (("unet", "reference", "pose_encoder"), "video"),  # single frames
    "motion": (("motion_modules",), "video"),
    **common.STAGES,
}
# Steps, clips, frames of a clip with the reference, learning rate, optimizer.
FULL_STAGES = {
    **dict.fromkeys(STAGES, (20_000, 32, 17, 1e-5, "adamw")),
    "base": (30_000, 64, 2, 1e-5, "adamw"),
    "motion": (10_000, 8, 25, 1e-5, "adamw"),
}
TINY_STAGES = {
    **common.TINY_STAGES,
    "dispose": (3000, 4, 9, 1e-3, "muon"),
    "base": (4000, 32, 2, 2e-3, "muon"),
    "motion": (2000, 4, 9, 2e-3, "muon"),
}


def get_config(arg: str | None = None) -> ConfigDict:
    """The configuration for an argument such as "size=tiny,release=moore,stage=motion"."""
    choice = parse_arg(
        arg,
        size=common.SIZES,
        release=("musepose", "moore"),
        variant=tuple(CONTROL),
        stage=tuple(STAGES),
        speed=tuple(common.SPEEDS),
    )
    size, moore = choice["size"], choice["release"] == "moore"
    drawn = size in common.SIDES  # small networks, which learn from drawn people
    config = defaults(choice, STAGES, TINY_STAGES if drawn else FULL_STAGES)
    config.base = "sd15"
    config.name = "configs/sd15.py" + (f":size={size}" if drawn else "")  # what a bundle belongs to
    # Folders of assets/ with weights for this config: what serves any base, then what does not.
    config.bundled = ("svd_small", "sd15_small") if size == "small" else ()
    config.model = TINY if drawn else FULL
    config.quirks = common.TEXTBOOK

    skeleton = config.skeleton
    skeleton.fit = choice["release"]
    skeleton.style = choice["release"]
    if not drawn:
        skeleton.canvas = 512 if moore else 1024

    sample = config.sample
    if not drawn:
        sample.height = 784 if moore else 768
        sample.width = 512 if moore else 768
        sample.shown_height = sample.height
        sample.window = 24 if moore else 48
        sample.overlap = 4
        sample.steps = 30 if moore else 20
        sample.guidance_scale = 3.5
        sample.decode_rest = "whole"  # frames do not see each other
    sample.window_stride = 1  # scales of windows; those of the k-th take each 2^k-th frame
    sample.window_loop = moore  # windows go round from the last frame to the first
    sample.window_pad = not moore
    sample.timesteps = "uniform"  # spacing, as released; or ays (Align Your Steps)
    sample.betas = "linear" if moore else "scaled_linear"  # Moore trains with the other ones

    common.at_speed(sample, choice["speed"], "timesteps")

    train = config.train
    if not drawn:
        train.width = train.height = 512
        train.warmup = 0
        train.control_start = "dift_unet"  # paper: from Stable Diffusion 1.5
    train.spatial_only = train.stage == "base"
    train.sigmas = "times"
    train.noise_offset = 0.0 if drawn else 0.05
    config.data.ref_window = 1_000_000  # the reference is any frame of the video
    return config.lock()  # a misspelt name in a config that changes this one is an error
