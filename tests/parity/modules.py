"""Our modules in the sizes of the originals' configs, as transformers and diffusers write them."""

from dispose_jax.networks.clip import TextTransformer, VisionTransformer
from dispose_jax.networks.vae import VAE


def vision_transformer(config: dict) -> VisionTransformer:
    """Of a CLIPVisionConfig."""
    return VisionTransformer(
        **_transformer(config), projection=config["projection_dim"], patch=config["patch_size"]
    )


def text_transformer(config: dict) -> TextTransformer:
    """Of a CLIPTextConfig."""
    return TextTransformer(
        **_transformer(config),
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
    )


def vae(config: dict) -> VAE:
    """Of an AutoencoderKL's config, or of an AutoencoderKLTemporalDecoder's."""
    return VAE(
        widths=tuple(config["block_out_channels"]),
        latent_channels=config["latent_channels"],
        layers=config["layers_per_block"],
        groups=config.get("norm_num_groups", 32),
        temporal="up_block_types" not in config,  # which only the temporal one lacks
    )


def _transformer(config: dict) -> dict:
    return {
        "width": config["hidden_size"],
        "layers": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "hidden": config["intermediate_size"],
        "activation": config["hidden_act"],
    }
