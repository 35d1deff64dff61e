"""What is told of a released file: which networks lie in it under which names, and where it is had.

The class alone; the tables of files are `releases` and `evaluation_releases`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from converters import rules
from converters.mapping import Rule

POSITION_IDS = (r"^vision_model\.embeddings\.position_ids$",)  # constants of CLIP's vision towers


class Part(NamedTuple):
    """A network inside a file."""

    network: str  # its name in a bundle
    spelling: rules.Spelling
    prefix: str = ""  # of its keys in the file


@dataclass(frozen=True)
class Release:
    """One released file. Patterns are regular expressions, on the path (places) or the key (the
    rest).

    base: of the configs that it serves, since networks of one name differ; "": of all. module:
    prefix of all keys as released; files without it are read too. frame_codes: whether attention
    over frames has its table of positions beside it. counters: whether norms count batches.
    repository: on Hugging Face, or the address that the remote path is appended to; "": no program
    can fetch it. page: where people get it by hand; "" too: nobody has published such a file, it
    comes from training.
    """

    name: str
    parts: tuple[Part, ...]
    file: str  # where it lies in a folder of weights, and what an export writes
    places: tuple[str, ...]  # how its path ends or looks, best first
    repository: str
    remote: str  # path in there
    licence: str
    base: str = ""
    download_to: str = ""  # folder that the remote path goes below
    has_config: bool = False  # a config.json may lie beside it (stated.py)
    wrapper: str | None = None  # entry of the dictionary that a written file holds them in
    module: str = ""
    aliases: tuple[Rule, ...] = ()  # other spellings that are met -> the one here
    constants: tuple[str, ...] = ()  # 0, 1, 2, ...; compared when present, never written
    frame_codes: bool = False  # sinusoids of any length; compared when present, always written
    counters: bool = False
    unused: tuple[str, ...] = ()
    only_if_asked: bool = False  # holds a network that another release is preferred for
    # Taken where it lies, missed by nobody: no model holds its networks.
    for_training: bool = False
    for_evaluation: bool = False
    copies: tuple[Rule, ...] = ()  # written a second time: key -> the other; not read there
    size: str = ""  # of the download, for people
    page: str = ""

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(part.network for part in self.parts)

    @property
    def is_expected(self) -> bool:
        """Whether a folder of weights lacks something without it."""
        return bool(self.repository) and not (self.only_if_asked or self.is_optional)

    @property
    def is_optional(self) -> bool:
        """Whether sampling does without it."""
        return self.for_training or self.for_evaluation
