"""The doctor finds released files in the folders that people have, and takes the better one."""

from converters import doctor

LAYOUTS = {
    "svd_vae": "models--stabilityai--stable-video-diffusion-img2vid-xt-1-1/snapshots/9e43909/vae/"
    "diffusion_pytorch_model.fp16.safetensors",
    "sd15_vae": "svd_and_more/Stable-Diffusion-v1-5/vae/diffusion_pytorch_model.bin",
    "sd15_unet": "sd15/unet/diffusion_pytorch_model.safetensors",
    "svd_image_encoder": "svd_xt/image_encoder/model.safetensors",
    "mimicmotion": "a/b/MimicMotion_1.pth",
    "cmp": "models/cmp/experiments/semiauto_annot/resnet50_vip+mpii_liteflow/checkpoints/"
    "ckpt_iter_42000.pth.tar",
    "detector.onnx": "DWPose/yolox_l.onnx",
}


def test_files_are_found_in_the_layouts_that_people_have(tmp_path):
    for place in LAYOUTS.values():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "sd15/loop").symlink_to(tmp_path)  # must not be followed for ever
    assert doctor.find(tmp_path) == {name: tmp_path / place for name, place in LAYOUTS.items()}


def test_the_full_precision_file_is_taken_before_the_half_one(tmp_path):
    folder = tmp_path / "stable-video-diffusion-img2vid-xt-1-1" / "vae"
    folder.mkdir(parents=True)
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"):
        (folder / name).touch()
    assert doctor.find(tmp_path)["svd_vae"].name == "diffusion_pytorch_model.safetensors"
