"""Where our parameter names differ from the originals': one short list of rename rules per network
family.

Rules apply Flax -> torch only (mapping.py), so none needs an inverse. `UNIT_AXES` names the weights
that are convolutions in the original and matrices or flatter convolutions here.
"""

from __future__ import annotations

from typing import NamedTuple

from converters.mapping import Rule

# `linear_1` ends in a digit in the original too; the spelling rule took it for a list item.
_TIME_MLP: Rule = (r"\.linear\.([12])\.", r".linear_\1.")
_ENCODER: Rule = (r"^encoder\.", "")

# Convolutions over frames are (3, 1) here and (3, 1, 1) there.
_FRAME_CONVS = {r"temporal_res_block\.conv[12]\.": 1}


class Spelling(NamedTuple):
    """How one network is spelt in PyTorch: rename rules, and trailing unit axes by key pattern, of
    layers that it always has and of such that some sizes have."""

    rules: tuple[Rule, ...] = ()
    unit_axes: dict[str, int] = {}
    unit_axes_if_any: dict[str, int] = {}


UNET_VIDEO = Spelling((_ENCODER, _TIME_MLP), _FRAME_CONVS)
UNET_PICTURE = Spelling((_ENCODER, _TIME_MLP), {r"\.proj_(in|out)\.": 2})
# Of MusePose's denoiser, which is UNET_PICTURE otherwise; their projections are matrices in both.
MOTION_MODULES = Spelling((_ENCODER, (r"\.(motion_modules\.\d+)\.", r".\1.temporal_transformer.")))
POSE_NET = Spelling(((r"^output_scale$", "scale"),))
MOTION_ENCODER = Spelling(
    (
        (r"^dense\.(conv_in|blocks|conv_out)\.", r"\1_flow."),
        (r"^sparse\.(conv_in|blocks|conv_out)\.", r"\1_traj."),
    )
)
POINT_ENCODER = Spelling(((r"^levels\.", "model_list."),))
_VAE_AXES = _FRAME_CONVS | {r"time_conv_out\.": 1}
VAE_VIDEO = Spelling((), _VAE_AXES)
VAE = Spelling((), {}, _VAE_AXES)  # a picture's, but the small model of either base has a video's
PLAIN = Spelling()

# RAFT's names in its authors' files -> torchvision's, which are ours.
RAFT_OF_ITS_AUTHORS: tuple[Rule, ...] = (
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^(\w+_encoder)\.conv1\.", r"\1.convnormrelu.0."),
    (r"^(\w+_encoder)\.norm1\.", r"\1.convnormrelu.1."),
    (r"^(\w+_encoder)\.conv2\.", r"\1.conv."),
    (r"(layer\d\.\d)\.conv([12])\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm([12])\.", r"\1.convnormrelu\2.1."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.gru\.(conv[zrq])([12])\.", r"update_block.recurrent_block.convgru\2.\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)
# And back.
RAFT_THINGS = Spelling(
    (
        (r"^feature_encoder\.", "fnet."),
        (r"^context_encoder\.", "cnet."),
        (r"^([fc]net)\.convnormrelu\.0\.", r"\1.conv1."),
        (r"^([fc]net)\.convnormrelu\.1\.", r"\1.norm1."),
        (r"^([fc]net)\.conv\.", r"\1.conv2."),
        (r"\.convnormrelu([12])\.0\.", r".conv\1."),
        (r"\.convnormrelu([12])\.1\.", r".norm\1."),
        (r"^update_block\.motion_encoder\.conv\.0\.", "update_block.encoder.conv."),
        (r"^update_block\.motion_encoder\.convcorr(\d)\.0\.", r"update_block.encoder.convc\1."),
        (r"^update_block\.motion_encoder\.convflow(\d)\.0\.", r"update_block.encoder.convf\1."),
        (
            r"^update_block\.recurrent_block\.convgru([12])\.(conv[zrq])\.",
            r"update_block.gru.\2\1.",
        ),
        (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
        (r"^mask_predictor\.conv\.", "update_block.mask.2."),
    )
)

# Networks that only measure.
LPIPS_HEADS = Spelling((), {r"^lin\d\.": 2})  # 1 x 1 convolutions there, matrices here
AESTHETIC_HEAD = Spelling(((r"^linear\.", ""),))
