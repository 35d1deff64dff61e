"""The released checkpoints: which file holds which networks under which prefix, where it comes
from, and what else may lie in it.

The table alone; `checkpoints` reads and writes the files by it.
"""

from __future__ import annotations

from converters import rules
from converters.evaluation_releases import EVALUATION_RELEASES
from converters.release import POSITION_IDS, Part, Release

_SVD_LICENCE = "Stability AI Community License; accept it on the repository's page first"
# The model's folder, right above the network's or above a snapshot in Hugging Face's cache.
_SNAPSHOT = r"[^/]*(/snapshots/[^/]+)?"
_SD15 = r"(stable-diffusion-v1-?5|sd-?v?1[.-]?5)" + _SNAPSHOT
_SVD = r"(stable-video-diffusion|svd|img2vid)" + _SNAPSHOT
# MusePose and Moore-AnimateAnyone ask for it in their common folder.
_VARIATIONS = rf"(sd-image-variations{_SNAPSHOT}|/pretrained_weights)"
_MUSEPOSE = r"musepose[^/]*"
_MOORE = rf"(animate[-_]?anyone{_SNAPSHOT}|/pretrained_weights)"
_WEIGHTS = tuple(
    rf"(diffusion_pytorch_model|model|pytorch_model){variant}\.{ending}$"
    for ending in ("safetensors", "bin")
    for variant in ("", r"\.fp16", r"\.non_ema")
)
_SVD_REPOSITORY = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
GATED = (_SVD_REPOSITORY,)  # licences that are accepted on the repository's page
_SD15_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_SD15_LICENCE = "CreativeML Open RAIL-M"
_VARIATIONS_REPOSITORY = "lambdalabs/sd-image-variations-diffusers"
_VAE_ALIASES = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
_HEAD = (r"^conv_(norm_)?out\.",)  # of a whole U-Net; the reference's output is not used


def _folder_release(family: str, folder: str, network: str, spelling: rules.Spelling, **more):
    """A network in a diffusers folder, which has one file per network."""
    root, repository, licence, base, end = {
        # half precision, as the official run loads it
        "svd": (_SVD, _SVD_REPOSITORY, _SVD_LICENCE, "svd", ".fp16.safetensors"),
        "sd15": (_SD15, _SD15_REPOSITORY, _SD15_LICENCE, "", ".safetensors"),
        "variations": (_VARIATIONS, _VARIATIONS_REPOSITORY, _SD15_LICENCE, "sd15", ".bin"),
    }[family]
    stem = "diffusion_pytorch_model" if folder in ("vae", "unet") else "model"
    above = repository.split("/")[1]
    fields = {"name": f"{family}_{folder}", "remote": f"{folder}/{stem}{end}"} | more
    return Release(
        parts=(Part(network, spelling),),
        file=f"{above}/{folder}/{stem}.safetensors",
        places=tuple(rf"(?i){root}/{folder}/{end}" for end in _WEIGHTS),
        repository=repository,
        download_to=above,
        licence=licence,
        base=base,
        has_config=True,
        **fields,
    )


def _animate_anyone(
    project: str, root: str, folder: str, remote: str, repository: str, licence: str, **more
) -> tuple[Release, ...]:
    """The four files of MusePose, or of Moore-AnimateAnyone, which it grew from: the same networks.

    root: pattern of the folder they lie in; folder: where ours puts them; remote: theirs.
    """
    networks = {
        "denoising_unet": ("unet", rules.UNET_PICTURE, {}),
        "motion_module": ("motion_modules", rules.MOTION_MODULES, {"frame_codes": True}),
        "reference_unet": ("reference", rules.UNET_PICTURE, {"unused": _HEAD}),
        "pose_guider": ("pose_encoder", rules.PLAIN, {}),
    }
    return tuple(
        Release(
            name=f"{project}_{stem}",
            parts=(Part(network, spelling),),
            file=f"{folder}/{stem}.pth",
            places=(rf"(?i){root}/{stem}\.(pth|safetensors)$",),
            repository=repository,
            remote=f"{remote}{stem}.pth",
            download_to="" if remote else folder,
            licence=licence,
            base="sd15",
            **fields,
            **more,
        )
        for stem, (network, spelling, fields) in networks.items()
    )


def _dispose(controlnet: rules.Spelling) -> tuple[Part, ...]:
    """What DisPose trains, under one file's prefixes; only the ControlNet depends on the base."""
    return (
        Part("controlnet", controlnet),
        Part("motion_encoder", rules.MOTION_ENCODER, "controlnet_cond_embedding."),
        Part("point_encoder", rules.POINT_ENCODER, "point_adapter."),
    )


RELEASES = (
    Release(
        name="mimicmotion",
        parts=(
            Part("unet", rules.UNET_VIDEO, "unet."),
            Part("pose_encoder", rules.POSE_NET, "pose_net."),
        ),
        file="MimicMotion_1-1.pth",
        places=(r"MimicMotion_1-1\.(pth|safetensors)$", r"MimicMotion[^/]*\.(pth|safetensors)$"),
        repository="tencent/MimicMotion",
        remote="MimicMotion_1-1.pth",
        licence="research and education only (Tencent), and the Stability AI Community License",
        base="svd",
        unused=(r"^(vae|image_encoder)\.",),
    ),
    Release(
        name="dispose",
        parts=_dispose(rules.UNET_VIDEO),
        file="DisPose.pth",
        places=(r"DisPose\.(pth|safetensors)$",),
        repository="lihxxx/DisPose",
        remote="DisPose.pth",
        licence="none stated; see the repository's page",
        base="svd",
    ),
    _folder_release("svd", "vae", "vae", rules.VAE_VIDEO, aliases=_VAE_ALIASES),
    _folder_release(
        "svd",
        "image_encoder",
        "image_encoder",
        rules.PLAIN,
        constants=POSITION_IDS,
    ),
    _folder_release("svd", "unet", "unet", rules.UNET_VIDEO, only_if_asked=True),
    _folder_release(  # what the ControlNet's training starts from (paper section 5.1)
        "svd",
        "unet",
        "svd_encoder",
        rules.UNET_VIDEO,
        name="svd_encoder",
        unused=(r"^(up_blocks|conv_norm_out|conv_out)\.",),
        for_training=True,
    ),
    *_animate_anyone(
        "musepose",
        root=_MUSEPOSE,
        folder="MusePose",
        remote="MusePose/",
        repository="TMElyralab/MusePose",
        licence="non-commercial research only (MusePose)",
    ),
    _folder_release(
        "variations",
        "image_encoder",
        "image_encoder",
        rules.PLAIN,
        remote="image_encoder/pytorch_model.bin",
        constants=POSITION_IDS,
    ),
    Release(
        name="vae_ft_mse",
        parts=(Part("vae", rules.VAE),),
        file="sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        places=tuple(rf"(?i)sd-vae-ft-mse{_SNAPSHOT}/{end}" for end in _WEIGHTS),
        repository="stabilityai/sd-vae-ft-mse",
        remote="diffusion_pytorch_model.safetensors",
        download_to="sd-vae-ft-mse",
        licence="MIT",
        base="sd15",
        has_config=True,
        aliases=_VAE_ALIASES,
    ),
    Release(
        name="dispose_sd15",  # the SD1.5 part loads in diffusers' ControlNetModel too
        parts=_dispose(rules.UNET_PICTURE),
        file="DisPose_sd15.pth",
        places=(r"DisPose_sd15\.(pth|safetensors)$",),
        repository="",
        remote="",
        licence="that of whoever trained it",
        base="sd15",
    ),
    *_animate_anyone(
        "moore",
        root=_MOORE,
        folder="AnimateAnyone",
        remote="",
        repository="patrolli/AnimateAnyone",
        licence="Apache-2.0",
        only_if_asked=True,
    ),
    # What the base's own training starts from.
    Release(
        name="animatediff",
        parts=(Part("motion_modules", rules.MOTION_MODULES),),
        file="mm_sd_v15_v2.ckpt",
        places=(
            r"mm_sd_v15_v2[^/]*\.(ckpt|pth|safetensors)$",
            r"mm_sd_v1[45][^/]*\.(ckpt|pth|safetensors)$",
        ),
        repository="guoyww/animatediff",
        remote="mm_sd_v15_v2.ckpt",
        licence="Apache-2.0",
        base="sd15",
        frame_codes=True,
        only_if_asked=True,
    ),
    _folder_release("variations", "unet", "unet", rules.UNET_PICTURE, only_if_asked=True),
    _folder_release(
        "variations",
        "unet",
        "reference",
        rules.UNET_PICTURE,
        name="variations_reference",
        unused=_HEAD,
        only_if_asked=True,
    ),
    _folder_release("sd15", "unet", "dift_unet", rules.UNET_PICTURE),
    _folder_release(
        "sd15",
        "vae",
        "dift_vae",
        rules.PLAIN,
        aliases=_VAE_ALIASES,
        unused=(r"^(decoder|post_quant_conv)\.",),  # diffusion features need the encoder only
    ),
    _folder_release(
        "sd15",
        "text_encoder",
        "dift_text_encoder",
        rules.PLAIN,
        # transformers 5 leaves out the outermost module
        aliases=((r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1."),),
        constants=(r"^text_model\.embeddings\.position_ids$",),
    ),
    Release(
        name="cmp",
        parts=(Part("cmp", rules.PLAIN),),
        file="cmp/experiments/semiauto_annot/resnet50_vip+mpii_liteflow/checkpoints/"
        "ckpt_iter_42000.pth.tar",
        places=(
            r"resnet50_vip\+mpii_liteflow/checkpoints/ckpt_iter_\d+\.pth(\.tar)?$",
            r"ckpt_iter_42000\.pth(\.tar)?$",
        ),
        repository="MyNiuuu/MOFA-Video-Hybrid",
        remote="models/cmp/experiments/semiauto_annot/resnet50_vip+mpii_liteflow/checkpoints/"
        "ckpt_iter_42000.pth.tar",
        licence="see the repository's page, and XiaohangZhan/conditional-motion-propagation",
        wrapper="state_dict",
        module="module.",
        counters=True,
    ),
    Release(
        name="raft",
        parts=(Part("raft", rules.PLAIN),),
        file="raft_large_C_T_SKHT_V2-ff5fadd5.pth",
        places=(
            r"raft_large_C_T_SKHT_V2[^/]*\.(pth|safetensors)$",
            r"raft_large[^/]*\.(pth|safetensors)$",
            r"raft-(things|sintel|kitti|chairs)\.pth$",
        ),
        repository="https://download.pytorch.org/models",
        remote="raft_large_C_T_SKHT_V2-ff5fadd5.pth",
        licence="BSD-3-Clause (torchvision); the data it was trained on have their own terms",
        aliases=rules.RAFT_OF_ITS_AUTHORS,
        counters=True,
        unused=(r"\.norm3\.",),  # in the authors' files: the same tensors as downsample.1
        for_training=True,
        for_evaluation=True,
        size="21 MB",
    ),
    *EVALUATION_RELEASES,
)

# DWPose stays ONNX and is copied as it is (dispose_jax/pose/dwpose.py has the names).
EVALUATION = "evaluation"  # what stands for all files that measure, in --only and the doctor
POSE_FOLDER = "dwpose"
POSE_REPOSITORY = "yzd-v/DWPose"
POSE_LICENCE = "Apache-2.0"


def address(row: Release) -> str:
    """The page or the file where a release is to be had."""
    if not row.repository:
        return row.page or "a training run, as nobody has published one"
    if row.repository.startswith("https://"):
        return f"{row.repository}/{row.remote}"
    return f"https://huggingface.co/{row.repository} ({row.remote})"


def serving(base: str) -> list[Release]:
    """The releases for the configs of a base."""
    return [row for row in RELEASES if row.base in ("", base)]


def is_optional(network: str) -> bool:
    """Whether a network serves training data or the evaluation, so that no model is incomplete
    without it."""
    return any(row.is_optional and network in row.networks for row in RELEASES)


def release(name: str) -> Release:
    """The row of that name. Raises ValueError listing the names."""
    for row in RELEASES:
        if row.name == name:
            return row
    raise ValueError(f"no release {name!r}; known are {', '.join(row.name for row in RELEASES)}")
