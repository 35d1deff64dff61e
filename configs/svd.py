"""DisPose on MimicMotion (Stable Video Diffusion).

  python sample.py --config configs/svd.py --weights DIR --reference ref.png --driving dance.mp4
  python sample.py --config configs/svd.py:size=small,variant=no_motion
  python train.py --config configs/svd.py --weights DIR --workdir runs/mm --config.data.source=SET

size: full (the released checkpoints), or small or tiny (a laptop's, of 128 and 64 pixels). speed:
exact (as released), or fast or draft, which cost quality (docs/performance.md). variant: the
paper's ablations. stage: what is trained; the defaults are the paper's (section 5.1: 10,000 steps,
batch 8, learning rate 2e-5, 16 frames of 768 x 1024).
"""

from __future__ import annotations

from ml_collections import ConfigDict, FieldReference

from configs import common
from configs.common import CONTROL, defaults, parse_arg

FULL = {
    **common.FULL,
    "unet": {
        "channels": (320, 640, 1280, 1280),
        "heads": (5, 10, 20, 20),
        "layers": 2,
        "groups": 32,
        "added_width": 256,  # sinusoids per added time id
    },
    "pose_encoder": {"widths": (16, 32, 64, 128)},
    "vae": {**common.VAE, "temporal": True},
    "image_encoder": {  # CLIP ViT-H/14
        "width": 1280,
        "layers": 32,
        "heads": 16,
        "hidden": 5120,
        "projection": 1024,
        "patch": 14,
        "image_size": 224,
        "activation": "gelu",
    },
}

# In float16 all of it stays below 40 MB.
TINY = {
    **common.TINY,
    "unet": {
        "channels": (64, 96, 128),
        "heads": (2, 3, 4),
        "layers": 1,
        "groups": 8,
        "added_width": 32,
    },
    "pose_encoder": {"widths": (8, 16, 32, 64)},
    "vae": {**common.TINY_VAE, "temporal": True},
    "image_encoder": common.TINY_IMAGE_ENCODER,
}

# What the released weights were made with; our own models take the other column.
RELEASED = {
    "residuals": "accumulated",
    "time_context_order": "released",  # "released": guidance halves mix in temporal attention
    "missing_joints": "released",
    "point_levels": "released",
}
TEXTBOOK = {**common.TEXTBOOK, "time_context_order": "per_clip"}

# Stages of training: what learns, and what is minimised (training/objectives.py).
STAGES = {
    "dispose": (("controlnet", "motion_encoder", "point_encoder"), "video"),
    "pictures": (("unet", "pose_encoder", "image_encoder"), "video"),  # single frames
    "base": (("unet", "pose_encoder", "image_encoder"), "video"),
    **common.STAGES,
}
# Steps, clips, frames of a clip with the reference, learning rate, optimizer.
TINY_STAGES = {
    "dispose": (3000, 4, 8, 1e-3, "muon"),
    "pictures": (2500, 32, 2, 1.5e-3, "muon"),
    "base": (4000, 4, 8, 2e-3, "muon"),
    **common.TINY_STAGES,
}
PAPER = (10_000, 8, 16, 2e-5, "adamw")  # at full size, whatever the stage but pictures


def get_config(arg: str | None = None) -> ConfigDict:
    """The configuration for an argument such as "size=small,variant=no_motion,stage=base"."""
    choice = parse_arg(
        arg,
        size=common.SIZES,
        variant=tuple(CONTROL),
        stage=tuple(STAGES),
        speed=tuple(common.SPEEDS),
    )
    size = choice["size"]
    drawn = size in common.SIDES  # small networks, which learn from drawn people
    full = dict.fromkeys(STAGES, PAPER) | {"pictures": (10_000, 64, 2, 2e-5, "adamw")}
    recipes = TINY_STAGES if drawn else full
    config = defaults(choice, STAGES, recipes)
    config.base = "svd"
    config.name = "configs/svd.py" + (f":size={size}" if drawn else "")  # what a bundle belongs to
    config.bundled = ("svd_small",) if size == "small" else ()  # folders of assets/ with weights
    config.model = TINY if drawn else FULL
    config.quirks = TEXTBOOK if drawn else RELEASED

    sample = config.sample
    sample.sigma_max = 50.0 if drawn else 700.0  # highest noise level
    sample.sigma_min = 0.05 if drawn else 0.002  # lowest one before none
    sample.sigmas = "karras"  # spacing of the levels, as released; or ays (Align Your Steps)
    sample.noise_aug = 0.02 if drawn else 0.0  # noise on the reference before it is encoded
    sample.conditioning_fps = 7  # told to the network (as one less), whatever the video's
    sample.motion_bucket = 127  # told to the network: how much moves
    common.at_speed(sample, choice["speed"], "sigmas")
    if not drawn:
        config.train.control_start = "auto"  # paper: from Stable Video Diffusion
    config.train.spatial_only = config.train.stage == "pictures"
    # On the reference: a deviation, or mean and deviation of its logarithm.
    config.train.noise_aug = FieldReference(0.02, field_type=object)
    return config.lock()  # a misspelt name in a config that changes this one is an error
