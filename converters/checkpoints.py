"""The released checkpoints: which file holds which networks under which prefix, and what else may
lie in it.

A table of rows and the two functions that read it in either direction. Import is strict: a file
must hold exactly the derived tensors, plus what its row names as constant, counter or unused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from converters import mapping, rules
from converters.mapping import ConversionError, Rule


class Part(NamedTuple):
    """A network inside a file."""

    network: str  # its name in a bundle
    spelling: rules.Spelling
    prefix: str = ""  # of its keys in the file


@dataclass(frozen=True)
class Release:
    """One released file. Patterns are regular expressions, on the path (places) or the key (the
    rest).

    module: prefix of all keys as released; files without it are read too. counters: whether norms
    count batches. repository: on Hugging Face, or the address that the remote path is appended to.
    """

    name: str
    parts: tuple[Part, ...]
    file: str  # where it lies in a folder of weights, and what an export writes
    places: tuple[str, ...]  # how its path ends or looks, best first
    repository: str
    remote: str  # path in there
    licence: str
    download_to: str = ""  # folder that the remote path goes below
    wrapper: str | None = None  # entry of the dictionary that a written file holds them in
    module: str = ""
    aliases: tuple[Rule, ...] = ()  # other spellings that are met -> the one here
    constants: tuple[str, ...] = ()  # 0, 1, 2, ...; compared when present, never written
    counters: bool = False
    unused: tuple[str, ...] = ()
    only_if_asked: bool = False  # holds a network that another release is preferred for
    for_training: bool = False  # taken where it lies, missed by nobody: no model holds its networks

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(part.network for part in self.parts)


@dataclass
class Report:
    """What became of a file's tensors."""

    source: str
    matched: int
    dtypes: set[str]
    notes: dict[str, list[str]] = field(default_factory=dict)  # what -> keys

    def lines(self) -> list[str]:
        """For people."""
        text = [f"{self.source}: {self.matched} tensors ({', '.join(sorted(self.dtypes))})"]
        for why, keys in self.notes.items():
            text.append(f"  {len(keys)} {why}, e.g. {keys[0]}")
        return text


_SVD_LICENCE = "Stability AI Community License; accept it on the repository's page first"
# The model's folder, right above the network's or above a snapshot in Hugging Face's cache.
_SD15 = r"(stable-diffusion-v1-?5|sd-?v?1[.-]?5)[^/]*(/snapshots/[^/]+)?"
_SVD = r"(stable-video-diffusion|svd|img2vid)[^/]*(/snapshots/[^/]+)?"
_WEIGHTS = (
    r"(diffusion_pytorch_model|model)\.safetensors$",
    r"(diffusion_pytorch_model|model)\.fp16\.safetensors$",
    r"(diffusion_pytorch_model|pytorch_model)\.bin$",
    r"(diffusion_pytorch_model|pytorch_model)\.fp16\.bin$",
)
_SVD_REPOSITORY = "stabilityai/stable-video-diffusion-img2vid-xt-1-1"
_SD15_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_VAE_ALIASES = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)


def _folder_release(family: str, folder: str, network: str, spelling: rules.Spelling, **more):
    """A network in a diffusers folder, which has one file per network."""
    root, repository, licence, variant = {
        "svd": (_SVD, _SVD_REPOSITORY, _SVD_LICENCE, ".fp16"),  # as the official run loads it
        "sd15": (_SD15, _SD15_REPOSITORY, "CreativeML Open RAIL-M", ""),
    }[family]
    stem = "diffusion_pytorch_model" if folder in ("vae", "unet") else "model"
    above = repository.split("/")[1]
    return Release(
        name=f"{family}_{folder}",
        parts=(Part(network, spelling),),
        file=f"{above}/{folder}/{stem}.safetensors",
        places=tuple(rf"(?i){root}/{folder}/{end}" for end in _WEIGHTS),
        repository=repository,
        remote=f"{folder}/{stem}{variant}.safetensors",
        download_to=above,
        licence=licence,
        **more,
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
        unused=(r"^(vae|image_encoder)\.",),
    ),
    Release(
        name="dispose",
        parts=(
            Part("controlnet", rules.UNET_VIDEO),
            Part("motion_encoder", rules.MOTION_ENCODER, "controlnet_cond_embedding."),
            Part("point_encoder", rules.POINT_ENCODER, "point_adapter."),
        ),
        file="DisPose.pth",
        places=(r"DisPose\.(pth|safetensors)$",),
        repository="lihxxx/DisPose",
        remote="DisPose.pth",
        licence="none stated; see the repository's page",
    ),
    _folder_release("svd", "vae", "vae", rules.VAE_VIDEO, aliases=_VAE_ALIASES),
    _folder_release(
        "svd",
        "image_encoder",
        "image_encoder",
        rules.PLAIN,
        constants=(r"^vision_model\.embeddings\.position_ids$",),
    ),
    _folder_release("svd", "unet", "unet", rules.UNET_VIDEO, only_if_asked=True),
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
    ),
)

# DWPose stays ONNX and is copied as it is: name in the bundle -> name as released.
POSE_FILES = {"detector.onnx": "yolox_l.onnx", "whole_body.onnx": "dw-ll_ucoco_384.onnx"}
POSE_FOLDER = "dwpose"
POSE_REPOSITORY = "yzd-v/DWPose"
POSE_LICENCE = "Apache-2.0"


def address(row: Release) -> str:
    """The page or the file where a release is to be had."""
    if row.repository.startswith("https://"):
        return f"{row.repository}/{row.remote}"
    return f"https://huggingface.co/{row.repository} ({row.remote})"


def serves_training(network: str) -> bool:
    """Whether a network belongs to no model, so that none is incomplete without it."""
    return any(row.for_training and network in row.networks for row in RELEASES)


def release(name: str) -> Release:
    """The row of that name. Raises ValueError listing the names."""
    for row in RELEASES:
        if row.name == name:
            return row
    raise ValueError(f"no release {name!r}; known are {', '.join(row.name for row in RELEASES)}")


def derive(
    row: Release, shapes: Mapping[str, Mapping]
) -> dict[str, dict[mapping.Path, mapping.Entry]]:
    """Per network of a release the key map, with the file's prefixes. shapes: {network: tree with
    `.shape`}."""
    maps, owner = {}, {}
    for network, spelling, prefix in row.parts:
        entries = mapping.derive(shapes[network], *spelling)
        entries = {path: e._replace(key=prefix + e.key) for path, e in entries.items()}
        for entry in entries.values():
            if owner.setdefault(entry.key, network) != network:
                raise ConversionError(
                    f"{row.name}: {network} and {owner[entry.key]} both hold {entry.key}"
                )
        maps[network] = entries
    return maps


def to_flax(
    row: Release,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Mapping],
    source: str,
    *,
    check_values: bool = True,
) -> tuple[dict[str, dict], Report]:
    """A file's tensors as params {network: nested dict of views}, and what became of each tensor.

    shapes: {network: tree with `.shape`} of what the config builds. Raises ConversionError naming
    the tensors that are missing, unexpected, of another shape, not floating or (check_values) not
    finite.
    """
    maps = derive(row, shapes)
    expected = {e.key: e.shape for entries in maps.values() for e in entries.values()}
    tensors, respelt = _respell(row, tensors, expected, source)
    ignored = {"in another spelling": respelt} if respelt else {}
    rest = {}
    for key, tensor in tensors.items():
        why = None if key in expected else _ignored(row, key, tensor, expected, source)
        if why is None:
            rest[key] = tensor
        else:
            ignored.setdefault(why, []).append(key)
    mapping.accounting(expected, rest, source)
    if check_values:
        _check_values(rest, source)
    params = {network: mapping.to_flax(entries, rest) for network, entries in maps.items()}
    dtypes = {str(tensor.dtype) for tensor in rest.values()}
    return params, Report(source, len(rest), dtypes, ignored)


def to_torch(row: Release, params: Mapping[str, Mapping], source: str) -> dict[str, np.ndarray]:
    """A release's state dict from params {network: nested dict}, counters written as 0.

    Raises ConversionError if a network does not fit its rules or holds values that are not finite.
    """
    tensors = {}
    for network, entries in derive(row, params).items():
        tensors |= mapping.to_torch(entries, params[network])
    _check_values(tensors, source)
    if row.counters:
        tensors |= {key: np.zeros((), np.int64) for key in _counters(tensors)}
    return {row.module + key: tensor for key, tensor in tensors.items()}


def _respell(
    row: Release, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple], source: str
):
    """Tensors under the keys used here, without the common prefix, and the other keys met."""
    if row.module or any(row.file.endswith(end) for end in (".pth", ".tar")):
        prefix = row.module or "module."  # what training on several devices leaves
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    spelt, respelt = {}, []
    for key, tensor in tensors.items():
        name = key
        for pattern, replacement in row.aliases:
            name = re.sub(pattern, replacement, name)
        if name != key:
            respelt.append(key)
            if tensor.shape == (*expected.get(name, ()), 1, 1):  # once a 1 x 1 convolution
                tensor = tensor.reshape(expected[name])
        if name in spelt:
            raise ConversionError(f"{source}: {key} is there twice, in two spellings")
        spelt[name] = tensor
    return spelt, respelt


def _ignored(
    row: Release, key: str, tensor: np.ndarray, expected: Mapping[str, tuple], source: str
) -> str | None:
    """Why a tensor that belongs to no network may be there, or None if it may not."""
    if any(re.search(pattern, key) for pattern in row.constants):
        if not np.array_equal(np.ravel(tensor), np.arange(tensor.size)):
            raise ConversionError(f"{source}: {key} should count 0, 1, 2, ... and does not")
        return "constants"
    if row.counters and key in _counters(expected):
        return "counters"
    for pattern in row.unused:
        if re.search(pattern, key) and not any(re.search(pattern, other) for other in expected):
            return "of networks not used here"
    return None


def _counters(keys: Iterable[str]) -> list[str]:
    """The batch counters that belong to the norms among the keys."""
    end = ".running_mean"
    return [k.removesuffix(end) + ".num_batches_tracked" for k in keys if k.endswith(end)]


def _check_values(tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Raise ConversionError naming a tensor that is not floating or not finite."""
    for key, tensor in tensors.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise ConversionError(f"{source}: {key} has type {tensor.dtype}, weights are floating")
        if not np.isfinite(tensor).all():
            raise ConversionError(f"{source}: {key} holds values that are not finite")
