"""Which networks of a bundle may serve another model than the one it was made for."""

from __future__ import annotations

from collections.abc import Mapping

from dispose_jax import plain
from dispose_jax.models import evaluation_networks

# Networks that serve any base, and the part of `config.model` that says all about each.
SECTIONS = {
    "vae": "vae",
    "image_encoder": "image_encoder",
    "cmp": "cmp",
    "dift_unet": "dift",
    "dift_vae": "dift",
    "dift_text_encoder": "dift",
}
# DisPose's own networks, and the quirks that no other network depends on.
CONTROL = ("controlnet", "motion_encoder", "point_encoder")
CONTROL_QUIRKS = ("residuals", "missing_joints", "point_levels")


def offers(content: Mapping, model: Mapping, quirks: Mapping) -> set[str]:
    """The networks that a bundle may give to this model with these quirks.

    content: what bundle.describe gives. All of them if it was made for that, all but DisPose's own
    if the difference is in quirks of these alone; else those that serve any base (SECTIONS) and
    have the same sizes, and those that are of one size whatever the model.
    """
    made_for = plain.values({"model": model, "quirks": quirks})
    if content["model"] == made_for["model"]:
        wrong = _differing(content["quirks"], made_for["quirks"])
        if wrong <= set(CONTROL_QUIRKS):
            return set(content["networks"]) - set(CONTROL if wrong else ())
    same = lambda section: content["model"].get(section) == made_for["model"].get(section)
    fixed = set(evaluation_networks.NAMES) & set(content["networks"])
    return fixed | {
        name for name in content["networks"] if name in SECTIONS and same(SECTIONS[name])
    }


def _differing(found: Mapping, expected: Mapping) -> set[str]:
    """Keys whose values differ."""
    return {key for key in {*found, *expected} if found.get(key) != expected.get(key)}
