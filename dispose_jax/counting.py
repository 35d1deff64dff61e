"""Counts in sentences for people."""


def counted(number: int, noun: str) -> str:
    """ "1 frame", "2 frames"; the noun in the singular, one that takes an s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
