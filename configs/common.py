"""What the configurations share: reading the argument, and the paper's ablations.

A config is a file with get_config(arg); the argument, after a colon, is a list of name=value:
`--config configs/svd.py:variant=no_motion,size=tiny`.
"""

from __future__ import annotations

# Rows of the paper's ablation table: which signals exist and where they enter.
_BOTH = ("sparse", "dense")
CONTROL = {
    "full": {"motion": _BOTH, "points": True},
    "no_motion": {"motion": (), "points": True},
    "no_point": {"motion": _BOTH, "points": False},
    "no_cmp": {"motion": ("sparse",), "points": True},
    "exp1": {"motion": _BOTH, "points": True, "motion_into": "unet"},
    "exp2": {"motion": _BOTH, "points": True, "motion_into": "unet", "points_into": "unet"},
    "base": {"motion": (), "points": False},
}


def control(variant: str) -> dict:
    """The `config.control` of a variant of the paper."""
    return {"motion_into": "controlnet", "points_into": "controlnet", **CONTROL[variant]}


def learnt(control: dict) -> tuple[str, ...]:
    """The networks of DisPose that a `config.control` has; those of the paper's training."""
    places = [control["motion_into"]] if control["motion"] else []
    places += [control["points_into"]] if control["points"] else []
    return (
        *(("controlnet",) if "controlnet" in places else ()),
        *(("motion_encoder",) if control["motion"] else ()),
        *(("point_encoder",) if control["points"] else ()),
    )


def parse_arg(arg: str | None, **choices: tuple[str, ...]) -> dict[str, str]:
    """`name=value,...` -> {name: value} with a value for each choice, the first one by default.

    Raises ValueError naming an unknown name or value and what is possible.
    """
    values = {name: options[0] for name, options in choices.items()}
    for part in filter(None, (arg or "").split(",")):
        name, separator, value = part.partition("=")
        if name not in choices or not separator:
            raise ValueError(
                f"config argument {part!r}: expected name=value with a name of {sorted(choices)}"
            )
        if value not in choices[name]:
            raise ValueError(
                f"config argument {part!r}: {name} is one of {', '.join(choices[name])}"
            )
        values[name] = value
    return values
