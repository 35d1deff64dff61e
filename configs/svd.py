"""DisPose on MimicMotion (Stable Video Diffusion).

  python sample.py --config configs/svd.py --weights DIR --reference ref.png --driving dance.mp4
  python sample.py --config configs/svd.py:size=tiny,variant=no_motion

size: full (the released checkpoints) or tiny (a laptop's). variant: the paper's ablations.
"""

from __future__ import annotations

from ml_collections import ConfigDict, FieldReference

from configs.common import CONTROL, control, parse_arg

FULL = {
    "unet": {
        "channels": (320, 640, 1280, 1280),
        "heads": (5, 10, 20, 20),
        "layers": 2,
        "groups": 32,
        "added_width": 256,  # sinusoids per added time id
    },
    "pose_encoder": {"widths": (16, 32, 64, 128)},
    "motion_encoder": {"widths": (16, 32, 96, 256)},
    "point_encoder": {"width": 128},
    "vae": {
        "widths": (128, 256, 512, 512),
        "latent_channels": 4,
        "layers": 2,
        "groups": 32,
        "scale": 0.18215,  # latents are this times the autoencoder's
    },
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
    "unet": {
        "channels": (64, 128, 128, 128),
        "heads": (2, 4, 4, 4),
        "layers": 1,
        "groups": 8,
        "added_width": 32,
    },
    "pose_encoder": {"widths": (8, 16, 32, 64)},
    "motion_encoder": {"widths": (8, 16, 32, 64)},
    "point_encoder": {"width": 64},
    "vae": {
        "widths": (16, 32, 64, 64),
        "latent_channels": 16,
        "layers": 1,
        "groups": 8,
        "scale": 1.0,
    },
    "image_encoder": {
        "width": 64,
        "layers": 2,
        "heads": 4,
        "hidden": 256,
        "projection": 64,
        "patch": 16,
        "image_size": 64,
        "activation": "gelu",
    },
    "dift": {
        "channels": (64, 128, 128, 128),
        "heads": (4, 4, 4, 4),
        "layers": 1,
        "groups": 8,
        "vae_widths": (16, 32, 64, 64),
        "vae_layers": 1,
        "latent_channels": 4,
        "scale": 1.0,
        "vocabulary": 49408,
        "text_width": 64,
        "text_layers": 2,
        "text_heads": 4,
        "text_hidden": 128,
    },
    "cmp": {
        "layers": (1, 1, 1, 1),
        "image_features": 32,
        "sparse_features": 16,
        "bins": 65,
        "fmax": 64.0,
        "base_width": 8,
        "decoder_width": 24,
    },
}

# What the released weights were made with, and what a text book would do (our own models).
RELEASED = {
    "residuals": "accumulated",  # early skips count up to four times; or "once"
    "time_context_order": "released",  # guidance halves mix in temporal attention; or "per_clip"
    "missing_joints": "released",  # a missing joint writes a vector to the corner; or "drop"
    "point_levels": "released",  # one correspondence map, resized; or "paper": each level's own
}
TEXTBOOK = {
    "residuals": "once",
    "time_context_order": "per_clip",
    "missing_joints": "drop",
    "point_levels": "paper",
}


def get_config(arg: str | None = None) -> ConfigDict:
    """The configuration for an argument such as "size=tiny,variant=no_motion"."""
    choice = parse_arg(arg, size=("full", "tiny"), variant=tuple(CONTROL))
    tiny = choice["size"] == "tiny"

    config = ConfigDict()
    config.base = "svd"
    config.name = "configs/svd.py" + (":size=tiny" if tiny else "")  # what a bundle belongs to
    config.bundled = "svd_tiny" if tiny else ""  # folder of assets/ with weights for this config
    config.seed = 42
    config.model = TINY if tiny else FULL
    config.quirks = TEXTBOOK if tiny else RELEASED
    config.control = control(choice["variant"])

    motion = config.motion = ConfigDict()
    motion.kernel = 47 if tiny else 199  # of the sparse field's Gaussian, odd, pixels
    motion.sigma = 4.5 if tiny else 20.0  # its deviation: follows the short side
    motion.cmp_size = 128 if tiny else 384  # side of the square that CMP works in
    motion.chunk = 8  # frames completed at a time

    dift = config.dift = ConfigDict()
    dift.prompt = "photo of a human"
    dift.tokenizer = ""  # folder of SD1.5's tokenizer, needed for any other prompt
    dift.timestep = 261  # of 1000
    dift.up_block = 1  # whose output is read: 1/16 of the picture
    dift.ensemble = 2 if tiny else 8  # draws of the noise
    dift.chunk = 2 if tiny else 4  # draws in memory at a time

    sample = config.sample = ConfigDict()
    sample.resolution = 128 if tiny else 576  # short side; the other one keeps 9 : 16
    sample.height = 0  # both or neither: override resolution
    sample.width = 0
    sample.stride = 2  # every n-th driving frame, times one more per 24 fps of the source
    sample.max_frames = 0  # driving frames used, after the stride; 0: all
    sample.window = 16  # frames denoised together
    sample.overlap = 6
    sample.steps = 8 if tiny else 25
    # A number, or one for the first and one for the last frame; 1 turns guidance off.
    sample.guidance_scale = FieldReference(2.0, field_type=object)
    sample.noise_aug = 0.0  # noise on the reference before it is encoded
    sample.conditioning_fps = 7  # told to the network (as one less), whatever the video's
    sample.motion_bucket = 127
    sample.control_scale = 1.0
    sample.decode_chunk = 8  # frames decoded together, which see each other
    sample.fps = 0.0  # of the written video; 0: the source's over the stride used
    sample.window_batch = 1  # windows at a time on each device
    sample.features_on_host = False  # for clips whose control features do not fit the device
    sample.dtype = "auto"  # of the networks: bfloat16 on GPU and TPU, float32 on CPU
    return config
