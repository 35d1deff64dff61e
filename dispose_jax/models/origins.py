"""Which released file each network of a base comes from, for the sentences that say what is
missing; what converts them has their details (converters/)."""

from __future__ import annotations

_FOR_ANY_BASE = {
    "dift_unet": "stable-diffusion-v1-5/unet",
    "dift_vae": "stable-diffusion-v1-5/vae",
    "dift_text_encoder": "stable-diffusion-v1-5/text_encoder",
    "cmp": "ckpt_iter_42000.pth.tar",
    "raft": "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
}
RELEASED_IN = {
    "svd": {
        "unet": "MimicMotion_1-1.pth",
        "pose_encoder": "MimicMotion_1-1.pth",
        "controlnet": "DisPose.pth",
        "motion_encoder": "DisPose.pth",
        "point_encoder": "DisPose.pth",
        "vae": "stable-video-diffusion-img2vid-xt-1-1/vae",
        "image_encoder": "stable-video-diffusion-img2vid-xt-1-1/image_encoder",
        "svd_encoder": "stable-video-diffusion-img2vid-xt-1-1/unet",
        **_FOR_ANY_BASE,
    },
    "sd15": {
        "unet": "MusePose/denoising_unet.pth",
        "motion_modules": "MusePose/motion_module.pth",
        "reference": "MusePose/reference_unet.pth",
        "pose_encoder": "MusePose/pose_guider.pth",
        "vae": "sd-vae-ft-mse",
        "image_encoder": "sd-image-variations-diffusers/image_encoder",
        **_FOR_ANY_BASE,
    },
}


def source_of(base: str, network: str) -> str:
    """What a base's network comes from: a released file and the command, or training."""
    released = RELEASED_IN.get(base, {}).get(network)
    if released is None:
        return "a training run"
    return f"{released} by python -m converters.convert to-flax --from WEIGHTS --to BUNDLE"
