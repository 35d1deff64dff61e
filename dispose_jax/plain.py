"""Values as JSON gives them back, and how two trees of them differ (host code)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def values(value: Any) -> Any:
    """A config value as JSON gives it back: dictionaries, lists, numbers, strings."""
    if hasattr(value, "items"):  # a dict or an ml_collections ConfigDict
        return {str(name): values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [values(item) for item in value]
    return value


def differences(found: Any, expected: Any) -> str:
    """What differs between two trees of plain values, "" if nothing: at most eight phrases such as
    "unet.layers is 2 there, 1 here". Absent and None are the same."""
    phrases = list(_differences(found, expected))
    return "; ".join(phrases[:8]) + ("; ..." if len(phrases) > 8 else "")


def _differences(found: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Phrases of `differences`, of all below a dotted path."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted({*found, *expected}):
            below = f"{path}.{name}" if path else name
            yield from _differences(found.get(name), expected.get(name), below)
    elif found != expected:
        show = lambda value: "absent" if value is None else f"{value!r:.60}"
        yield f"{path} is {show(found)} there, {show(expected)} here"
