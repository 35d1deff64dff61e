"""DisPose in JAX and Flax: a person of one picture, animated by the motion of a video."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispose_jax.animator import Animator

__all__ = ["Animator"]


def __dir__() -> list[str]:
    """What tab completion offers: Animator, too, before it was asked for."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str):
    """Animator, imported when it is first asked for: importing the package alone stays cheap."""
    if name == "Animator":
        from dispose_jax.animator import Animator

        return Animator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
