"""Which networks of a bundle serve another model."""

from dispose_jax.models import sharing

MODEL = {"unet": {"channels": [32, 64]}, "vae": {"widths": [4, 8]}, "cmp": {"bins": 9}}
QUIRKS = {"residuals": "once", "time_context_order": "released", "point_levels": "released"}


def offered(names, model=MODEL, quirks=QUIRKS):
    """What a bundle of MODEL and QUIRKS with networks of these names may give to another."""
    content = {"model": MODEL, "quirks": QUIRKS, "networks": dict.fromkeys(names, {})}
    return sharing.offers(content, model, quirks)


def test_the_same_model_takes_all_networks_whatever_holds_its_numbers():
    same = {**MODEL, "unet": {"channels": (32, 64)}}
    assert offered(("unet", "vae", "controlnet"), same) == {"unet", "vae", "controlnet"}


def test_another_base_takes_what_serves_any_base_if_the_sizes_are_equal():
    other = {**MODEL, "unet": {"channels": [8]}, "cmp": {"bins": 3}}
    assert offered(("unet", "vae", "cmp", "i3d"), other) == {"vae", "i3d"}


def test_quirks_of_dispose_s_own_networks_matter_to_no_other():
    names = ("unet", "vae", *sharing.CONTROL)
    finest = {**QUIRKS, "point_levels": "finest"}
    assert offered(names, quirks=finest) == {"unet", "vae"}
    of_the_base = {**finest, "time_context_order": "other"}
    assert offered(names, quirks=of_the_base) == {"vae"}
