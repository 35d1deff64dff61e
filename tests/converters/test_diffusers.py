"""Files we write load strictly into the original modules of diffusers and transformers."""

import inspect

import numpy as np
import pytest

from configs import sd15
from converters import checkpoints, files, releases
from dispose_jax.models import bundle
from dispose_jax.models import networks as model_networks
from tests.converters import built
from tests.converters.test_networks import keyed
from tests.parity.cases import load_manifest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.full


def from_config(kind: type, config: dict):
    """A diffusers module from a manifest's config, which may hold values of other modules."""
    known = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in config.items() if name in known})


def without_head(module):
    """A U-Net as MusePose saves its reference."""
    module.conv_norm_out, module.conv_out = None, torch.nn.Identity()
    return module


def vision_model(config: dict):
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config))


MODULES = {
    "svd_unet.tiny": lambda c: from_config(diffusers.UNetSpatioTemporalConditionModel, c),
    "svd_vae.tiny": lambda c: from_config(diffusers.AutoencoderKLTemporalDecoder, c),
    "svd_image_encoder.tiny": vision_model,
    "sd15_unet.tiny": lambda c: from_config(diffusers.UNet2DConditionModel, c),
    "sd15_vae.tiny": lambda c: from_config(diffusers.AutoencoderKL, c),
    f"{built.DENOISER}.tiny": lambda c: from_config(diffusers.UNet2DConditionModel, c["unet"]),
    "musepose_reference_unet.tiny": lambda c: without_head(
        from_config(diffusers.UNet2DConditionModel, c["unet"])
    ),
    "sd_image_variations_image_encoder.tiny": vision_model,
}


@pytest.mark.parametrize("manifest", MODULES)
def test_exported_networks_load_with_no_key_missing_or_left_over(tmp_path, manifest):
    module = MODULES[manifest](built.load(manifest)["config"])
    original = keyed(manifest, np.float32)
    suffix = "pth" if "unet" in manifest else "safetensors"
    path = export(tmp_path, manifest, f"model.{suffix}", original)
    if suffix == "pth":
        state = torch.load(path, weights_only=True)
    else:
        state = pytest.importorskip("safetensors.torch").load_file(path)
    module.load_state_dict(state, strict=True)
    for key, value in module.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), original[key], err_msg=key)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_the_text_encoder_loads_from_its_folder_with_no_key_missing_or_left_over(tmp_path, name):
    # from_pretrained, since newer versions of the library rename the released keys on the way in
    manifest = "sd15_text_encoder.tiny"
    original = keyed(manifest, np.float32)
    config = transformers.CLIPTextConfig(**load_manifest(manifest)["config"])
    config.save_pretrained(tmp_path / "text_encoder")
    export(tmp_path, manifest, f"text_encoder/{name}", original)
    module, info = transformers.CLIPTextModel.from_pretrained(
        tmp_path / "text_encoder",
        output_loading_info=True,
        use_safetensors=name.endswith(".safetensors"),
    )
    assert not any(info.values()), info
    bare = {key.removeprefix("text_model."): value for key, value in original.items()}
    state = {key.removeprefix("text_model."): value for key, value in module.state_dict().items()}
    for key, value in bare.items():
        np.testing.assert_array_equal(state[key].numpy(), value, err_msg=key)


def test_dispose_on_the_second_base_loads_and_computes_as_a_controlnet(tmp_path):
    config = sd15.get_config("size=tiny")
    names = ("controlnet", "motion_encoder", "point_encoder")
    networks = model_networks.build(config)
    params = model_networks.random({name: networks[name] for name in names}, seed=5)
    row = releases.release("dispose_sd15")
    files.write(tmp_path / row.file, checkpoints.to_torch(row, params, "random"))
    state = torch.load(tmp_path / row.file, weights_only=True)

    sizes = config.model.unet
    levels, channels = len(sizes.channels), config.model.vae.latent_channels
    module = diffusers.ControlNetModel(
        in_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
        block_out_channels=tuple(sizes.channels),
        layers_per_block=sizes.layers,
        attention_head_dim=tuple(sizes.heads),
        norm_num_groups=sizes.groups,
        cross_attention_dim=config.model.image_encoder.projection,
    )
    module.controlnet_cond_embedding = torch.nn.Identity()  # the motion encoder is in its place
    added = ("controlnet_cond_embedding.", "point_adapter.")
    module.load_state_dict({k: v for k, v in state.items() if not k.startswith(added)}, strict=True)

    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    x, context = normal(2, 1, 12, 8, channels), normal(2, 3, module.config.cross_attention_dim)
    motion, t = normal(2, 1, 12, 8, sizes.channels[0]), np.array([3.0, 700.0])
    ours = networks["controlnet"].module.apply(
        {"params": params["controlnet"]}, x, t, context, motion=motion
    )
    channels_first = lambda x: torch.from_numpy(np.moveaxis(np.asarray(x)[:, 0], -1, 1).copy())
    with torch.no_grad():
        down, mid = module(
            channels_first(x),
            torch.from_numpy(t),
            torch.from_numpy(context),
            controlnet_cond=channels_first(motion),
            return_dict=False,
        )
    for theirs, found in zip((*down, mid), (*ours.skips, ours.mid), strict=True):
        assert theirs.std() > 0.01
        torch.testing.assert_close(channels_first(found), theirs, rtol=1e-4, atol=1e-4)


def export(folder, manifest, name, original):
    """Weights through a bundle into a file, as the command line does it."""
    row = built.release_of(manifest)
    params, _ = checkpoints.to_flax(row, original, built.shapes_of(manifest), "file")
    described = bundle.ModelDescription("svd", {}, {}, "configs/svd.py")
    origins = dict.fromkeys(params, bundle.Origin("file", "none"))
    bundle.write(folder / "bundle", params, described, origins)
    params = bundle.load([folder / "bundle"], params, model={}, quirks={}, verify=True)

    path = folder / name
    files.write(path, checkpoints.to_torch(row, params, "bundle"))
    return path
