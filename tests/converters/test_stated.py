"""What a config.json beside weights says is compared with the network that they are for."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from converters import convert, doctor, files, releases, stated
from converters.mapping import ConversionError
from dispose_jax import settings
from dispose_jax.models import networks as model_networks

# Of the published files, as far as no tensor shows it.
CLIP = {"num_attention_heads": 16, "layer_norm_eps": 1e-05}
SD15 = {"act_fn": "silu", "attention_head_dim": 8, "norm_eps": 1e-05, "norm_num_groups": 32}
PUBLISHED = {
    "svd_unet": {"num_attention_heads": [5, 10, 20, 20], "num_frames": 25},
    "svd_encoder": {"num_attention_heads": [5, 10, 20, 20]},
    "svd_vae": {"force_upcast": True, "scaling_factor": 0.18215},
    "svd_image_encoder": CLIP | {"hidden_act": "gelu"},
    "sd15_unet": SD15,
    "sd15_vae": {"act_fn": "silu", "norm_num_groups": 32},
    "sd15_text_encoder": CLIP | {"num_attention_heads": 12, "hidden_act": "quick_gelu"},
    "variations_unet": SD15 | {"num_attention_heads": None},
    "variations_reference": SD15 | {"attention_head_dim": [8, 8, 8, 8]},
    "variations_image_encoder": CLIP | {"hidden_act": "quick_gelu"},
    "vae_ft_mse": {"act_fn": "silu", "norm_num_groups": 32},
}
OTHERS = {
    "svd_unet": ("num_attention_heads", [5, 10, 10, 20]),  # diffusers' default for this class
    "svd_image_encoder": ("hidden_act", "quick_gelu"),
    "variations_image_encoder": ("hidden_act", "gelu"),
    "variations_reference": ("norm_num_groups", 16),
    "sd15_unet": ("attention_head_dim", [5, 10, 20, 20]),
    "sd15_text_encoder": ("num_attention_heads", 8),
    "sd15_vae": ("scaling_factor", 0.13025),  # SDXL's
    "vae_ft_mse": ("act_fn", "gelu"),
}


@pytest.fixture(scope="module")
def built():
    """Networks of the released sizes and what they are built from, by the base of the release."""
    configs = {base: settings.load(f"configs/{base}.py") for base in ("svd", "sd15")}
    both = {base: (model_networks.build(config), config.model) for base, config in configs.items()}
    both["svd"][0]["svd_encoder"] = model_networks.svd_encoder(configs["svd"])
    return both | {"": both["svd"]}


def beside(folder, content):
    """Where weights would lie beside a config.json of this content."""
    (folder / "config.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return folder / "model.safetensors"


def test_every_release_with_a_config_is_known_here():
    assert {row.name for row in releases.RELEASES if row.has_config} == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_configs_are_those_of_the_networks(tmp_path, built, name):
    row = releases.release(name)
    stated.check(row, tmp_path / "model.safetensors", {}, {})  # nothing is said, nothing is asked
    stated.check(row, beside(tmp_path, PUBLISHED[name]), *built[row.base])


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_of_the_same_shapes_is_refused(tmp_path, built, name):
    row, (key, value) = releases.release(name), OTHERS[name]
    path = beside(tmp_path, PUBLISHED[name] | {key: value})
    with pytest.raises(ConversionError, match=f"config.json: {key} is .*of another model"):
        stated.check(row, path, *built[row.base])


def test_latents_of_another_scale_are_those_of_a_config_that_says_so(tmp_path, built):
    row, networks = releases.release("vae_ft_mse"), built["sd15"][0]
    sdxl = {"vae": {"scale": 0.13025}}
    stated.check(row, beside(tmp_path, {"scaling_factor": 0.13025}), networks, sdxl)
    with pytest.raises(ConversionError, match="scaling_factor is 0.18215, expected 0.13025"):
        stated.check(row, beside(tmp_path, {"scaling_factor": 0.18215}), networks, sdxl)


@pytest.mark.parametrize("content", ["{", "[1]", "\0"])
def test_a_damaged_config_is_an_error_that_names_it(tmp_path, built, content):
    row = releases.release("svd_vae")
    with pytest.raises(ValueError, match=r"config\.json: .*get it again"):
        stated.check(row, beside(tmp_path, content), *built[row.base])


def test_a_config_beside_files_that_have_none_of_their_own_is_not_theirs(tmp_path):
    stated.check(releases.release("dispose"), beside(tmp_path, {"hidden_act": "relu"}), {}, {})


def test_converter_and_doctor_ask_for_it(tmp_path, monkeypatch):
    row = releases.release("svd_image_encoder")
    module = model_networks.build(settings.load("configs/svd.py"))["image_encoder"].module
    network = SimpleNamespace(module=module, shapes={"kernel": jnp.zeros((2, 3))})
    monkeypatch.setattr(convert, "all_networks", lambda config: {"image_encoder": network})
    path = tmp_path / "weights" / row.file
    files.write(path, {"weight": np.ones((3, 2), np.float32)})
    config = settings.load("configs/svd.py")
    target = tmp_path / "bundle"
    assert doctor._examine(row, path, {"image_encoder": network}, {}).state == "ok"
    beside(path.parent, {"hidden_act": "quick_gelu"})
    assert doctor._examine(row, path, {"image_encoder": network}, {}).state == "wrong"
    with pytest.raises(ConversionError, match="hidden_act is quick_gelu, expected gelu"):
        list(convert.to_flax(tmp_path / "weights", target, config, only=[row.name]))
    assert not list(target.glob("*.safetensors"))
    beside(path.parent, {"hidden_act": "gelu"})
    list(convert.to_flax(tmp_path / "weights", target, config, only=[row.name]))
    assert (target / "image_encoder.safetensors").is_file()
