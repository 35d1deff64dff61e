"""The whole way of someone with the released weights, at full width, on made-up weights.

  python -m tests.parity.full_size FOLDER [svd or sd15]

Writes keyed weights of every released file of a base (float16, 4 to 9 GB) into FOLDER/weights, laid
out and named as the original project asks for them; then checks and converts them and animates the
bundled figure at 64 x 128 pixels with the full-size configuration, through the same commands that
the README gives. MusePose runs without DisPose, which nobody has published for it. Needs 20 GB of
disk and of memory.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from converters import files
from tests.parity import keyed_weights
from tests.parity.cases import load_manifest

SVD = "stable-video-diffusion-img2vid-xt-1-1"
SD15 = "stable-diffusion-v1-5"
MUSEPOSE = "pretrained_weights"
CMP = "cmp/experiments/semiauto_annot/resnet50_vip+mpii_liteflow/checkpoints"
LAYOUT = {  # base -> file -> manifest
    "svd": {
        "MimicMotion_1-1.pth": "mimicmotion.full",
        "DisPose.pth": "dispose.full",
        f"{SVD}/vae/diffusion_pytorch_model.fp16.safetensors": "svd_vae.full",
        f"{SVD}/image_encoder/model.fp16.safetensors": "svd_image_encoder.full",
        f"{SD15}/unet/diffusion_pytorch_model.safetensors": "sd15_unet.full",
        f"{SD15}/vae/diffusion_pytorch_model.safetensors": "sd15_vae.full",
        f"{SD15}/text_encoder/model.safetensors": "sd15_text_encoder.full",
        f"{CMP}/ckpt_iter_42000.pth.tar": "cmp.full",
    },
    "sd15": {
        f"{MUSEPOSE}/MusePose/denoising_unet.pth": "musepose_denoising_unet.full",
        f"{MUSEPOSE}/MusePose/motion_module.pth": "musepose_motion_module.full",
        f"{MUSEPOSE}/MusePose/reference_unet.pth": "musepose_reference_unet.full",
        f"{MUSEPOSE}/MusePose/pose_guider.pth": "musepose_pose_guider.full",
        f"{MUSEPOSE}/image_encoder/pytorch_model.bin": "sd_image_variations_image_encoder.full",
        f"{MUSEPOSE}/sd-vae-ft-mse/diffusion_pytorch_model.bin": "sd15_vae.full",
    },
}
CONFIG = {"svd": "configs/svd.py", "sd15": "configs/sd15.py:variant=base"}


def write_weights(folder: Path, layout: dict[str, str]) -> None:
    """Every file of a layout, skipping those that exist."""
    for name, manifest in layout.items():
        if (folder / name).exists():
            continue
        tensors = {}
        for key, (shape, dtype) in load_manifest(manifest)["tensors"].items():
            if key.endswith(".pos_encoder.pe"):
                continue  # sinusoids, which may be absent
            tensor = keyed_weights.tensor(key, shape, dtype)
            tensors[key] = tensor.astype(np.float16) if tensor.dtype == np.float32 else tensor
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        wrapper = "state_dict" if name.endswith(".tar") else None
        files.write(folder / name, tensors, wrapper=wrapper)
        print(f"{folder / name}: {len(tensors)} tensors", flush=True)


def run(*command: str) -> None:
    print("$", *command, flush=True)
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True)
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)


def main(folder: Path, base: str = "svd") -> None:
    weights, bundle, config = folder / "weights", folder / "bundle", ("--config", CONFIG[base])
    write_weights(weights, LAYOUT[base])
    convert = ("-m", "converters.convert")
    run(*convert, "check", str(weights), *config)
    if not bundle.exists():
        run(*convert, "to-flax", "--from", str(weights), "--to", str(bundle), *config)
    run(*convert, "check", str(bundle), *config)
    assets = Path("assets")
    settings = {"height": 128, "width": 64, "steps": 2, "max_frames": 8, "window": 6, "overlap": 2}
    run(
        "sample.py",
        *(*config, "--weights", str(bundle)),
        *("--reference", str(assets / "reference.png")),
        *("--reference_pose", str(assets / "reference.poses.json")),
        *("--poses", str(assets / "driving.poses.json")),
        *(f"--config.sample.{name}={value}" for name, value in settings.items()),
        *("--explain", "--output", str(folder / "full_size.mp4")),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
