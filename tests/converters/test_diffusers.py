"""Files we write load strictly into the original modules of diffusers and transformers."""

import inspect

import numpy as np
import pytest

from converters import checkpoints, files
from dispose_jax.models import bundle
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


def vision_model(config: dict):
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config))


MODULES = {
    "svd_unet.tiny": lambda c: from_config(diffusers.UNetSpatioTemporalConditionModel, c),
    "svd_vae.tiny": lambda c: from_config(diffusers.AutoencoderKLTemporalDecoder, c),
    "svd_image_encoder.tiny": vision_model,
    "sd15_unet.tiny": lambda c: from_config(diffusers.UNet2DConditionModel, c),
    "sd15_vae.tiny": lambda c: from_config(diffusers.AutoencoderKL, c),
}


@pytest.mark.parametrize("manifest", MODULES)
def test_exported_networks_load_with_no_key_missing_or_left_over(tmp_path, manifest):
    module = MODULES[manifest](load_manifest(manifest)["config"])
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


def export(folder, manifest, name, original):
    """Weights through a bundle into a file, as the command line does it."""
    row = built.release_of(manifest)
    params, _ = checkpoints.to_flax(row, original, built.shapes_of(manifest), "file")
    belongs = bundle.Belongs("svd", {}, {}, "configs/svd.py")
    origins = dict.fromkeys(params, bundle.Origin("file", "none"))
    bundle.write(folder / "bundle", params, belongs, origins)
    params = bundle.load([folder / "bundle"], params, model={}, quirks={}, verify=True)

    path = folder / name
    files.write(path, checkpoints.to_torch(row, params, "bundle"))
    return path
