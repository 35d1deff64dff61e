"""Fetch the released weights, when asked and only then.

  python -m converters.download --to weights                      (says what, how large, under which
                                                                   licences)
  python -m converters.download --to weights --accept-licences    (fetches it)

`--config` names the model whose files are meant (default configs/svd.py). Every file is checked
against the digest that its server announces; an interrupted download goes on with the same command.
Stable Video Diffusion is gated: its licence is accepted on its page, and the machine logged in with
`hf auth login` (extra: pip install "dispose-jax[download]"). What only training or the evaluation
uses is fetched when named: --only raft, --only evaluation. `--revision` asks for another state of
the repositories than their newest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from tqdm import tqdm

from converters import hub, releases
from dispose_jax import ending, settings
from dispose_jax.counting import counted
from dispose_jax.media import output
from dispose_jax.pose import dwpose

FETCHED = "downloads.json"  # beside the files: where each came from


class Item(NamedTuple):
    """One file to fetch: its name on the command line, where it is, where it goes."""

    name: str
    repository: str
    remote: str
    folder: str
    licence: str
    size: str = ""  # for people, where the server is not asked

    @property
    def place(self) -> str:
        """Where it goes, below the folder of the weights."""
        has_folders = "://" not in self.repository  # an address is that of one file
        return str(Path(self.folder) / (self.remote if has_folders else Path(self.remote).name))


def items(base: str, only: Sequence[str] = ()) -> list[Item]:
    """What sampling with a base needs, or the named releases ("dwpose" among them)."""
    every = {row.name: [_item(row)] for row in releases.RELEASES if row.repository}
    measuring = [row for row in releases.RELEASES if row.for_evaluation and row.repository]
    every[releases.EVALUATION] = [_item(row) for row in measuring]
    every["dwpose"] = [
        Item(
            "dwpose",
            releases.POSE_REPOSITORY,
            released,
            releases.POSE_FOLDER,
            releases.POSE_LICENCE,
        )
        for released in dwpose.RELEASED_AS.values()
    ]
    unknown = [name for name in only if name not in every]
    if unknown:
        raise ValueError(f"--only {unknown[0]}: not one of {', '.join(every)}")
    expected = [row.name for row in releases.serving(base) if row.is_expected]
    return [item for name in only or [*expected, "dwpose"] for item in every[name]]


def _item(row: releases.Release) -> Item:
    return Item(row.name, row.repository, row.remote, row.download_to, row.licence, row.size)


def by_hand(only: Sequence[str]) -> list[str]:
    """What no program can fetch of the evaluation's files, one sentence each."""
    if releases.EVALUATION not in only:
        return []
    rows = [row for row in releases.RELEASES if row.for_evaluation and not row.repository]
    return [f"{row.name}: by hand, {row.file} from {row.page}; {row.licence}" for row in rows]


def revisions(text: str, wanted: Sequence[Item]) -> dict[str, str]:
    """ "main", or "dispose=v2,cmp=1a2b3c" -> {name: revision}. Raises ValueError for other
    names."""
    names = {item.name for item in wanted}
    found = {}
    for part in filter(None, text.split(",")):
        name, given, revision = part.partition("=")
        if not given:
            found |= dict.fromkeys(names, name)
        elif name in names and revision:
            found[name] = revision
        else:
            raise ValueError(
                f"--revision {part}: expected a revision, or NAME=REVISION with a NAME"
                f" of {', '.join(sorted(names))}"
            )
    return found


def look(item: Item, revision: str) -> hub.Remote:
    """What the server says of a file. Raises ValueError with what to do if it may not be had."""
    url = hub.address(item.repository, item.remote, revision)
    try:
        return hub.announced(url)
    except hub.Gated:
        raise ValueError(_gate(item.repository)) from None
    except OSError as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise ValueError(f"{url}: cannot be reached ({reason})") from None


def fetch(item: Item, remote: hub.Remote, folder: Path) -> Path:
    """Download one file below a folder of weights and note where it is from; returns its path."""
    target = folder / item.place
    with tqdm(
        total=remote.size, unit="B", unit_scale=True, desc=item.remote, leave=False, disable=None
    ) as bar:
        try:
            hub.fetch(remote, target, lambda count: bar.update(count - bar.n))
        except hub.Gated:
            raise ValueError(_gate(item.repository)) from None
    _note(folder, item, remote)
    return target


def _note(folder: Path, item: Item, remote: hub.Remote) -> None:
    """Keep where a file is from, for the bundle that will be made of it."""
    path = folder / FETCHED
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known[item.place] = {
        "repository": item.repository,
        "revision": remote.commit,
        "digest": remote.digest,
    }
    output.write_json(path, dict(sorted(known.items())))


def _gate(repository: str) -> str:
    """What to do about a repository whose licence is accepted on its page."""
    return (
        f"{repository} is gated: accept its licence on {hub.HUB}/{repository}, then "
        '`hf auth login` (pip install "dispose-jax[download]"), then run this again'
    )


def _tell(wanted: Sequence[Item], known: dict[Item, hub.Remote | ValueError]) -> None:
    """Every file with its size and licence, the total, and what stands in the way."""
    for item in wanted:
        remote = known[item]
        told = item.size or "size not known"
        if isinstance(remote, hub.Remote) and remote.size is not None:
            told = hub.size(remote.size)
        print(f"{item.name}: {item.repository}/{item.remote}, {told}\n  licence: {item.licence}")
        if isinstance(remote, ValueError):
            print(f"  {remote}")
        elif item.repository in releases.GATED:
            print(f"  gated; you have been let in on {hub.HUB}/{item.repository}")
    sizes = [r.size for r in known.values() if isinstance(r, hub.Remote) and r.size is not None]
    unknown = len(wanted) - len(sizes)
    total = [f"{hub.size(sum(sizes))} in all"] if sizes else []
    rest = [f"{unknown} of unknown size"] if unknown else []
    print(f"{counted(len(wanted), 'file')}, {', and '.join(total + rest)}")


def _check_room(folder: Path, wanted: Sequence[Item], known: dict[Item, hub.Remote]) -> None:
    """Raise ValueError if the disk has no room for what is still to come."""
    todo = [known[item].size or 0 for item in wanted if not (folder / item.place).exists()]
    free = output.free_bytes(folder)
    if sum(todo) > free:
        raise ValueError(
            f"--to {folder}: {hub.size(sum(todo))} are to come and {hub.size(free)} are free; make "
            "room or choose another disk"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m converters.download", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--to", type=settings.path, required=True, help="folder for the weights")
    parser.add_argument("--config", default="configs/svd.py", help="file.py[:argument]")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--revision", default="", help="REVISION, or NAME=REVISION,...")
    parser.add_argument("--accept-licences", action="store_true")
    options = parser.parse_args(settings.at_home(arguments))
    folder = options.to
    try:
        settings.refuse_addresses({"--to": options.to})
        config = settings.load(options.config)
        only = tuple(filter(None, options.only.split(",")))
        wanted = items(config.base, only)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--to {folder}: is a file; name a folder")
        for line in by_hand(only):
            print(line)
        asked = revisions(options.revision, wanted)
        known: dict[Item, hub.Remote | ValueError] = {}
        for item in wanted:
            try:
                known[item] = look(item, asked.get(item.name, "main"))
            except ValueError as error:
                known[item] = error
        _tell(wanted, known)
        if not options.accept_licences:
            print("nothing was downloaded; read the licences, then add --accept-licences")
            return 0
        stopped = next((error for error in known.values() if isinstance(error, ValueError)), None)
        if stopped is not None:
            raise stopped
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, wanted, known)
        for item in wanted:
            print(f"{item.name} -> {fetch(item, known[item], folder)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    following = f"check {quote(str(options.to))} --config {quote(options.config)}"
    print(f"next: python -m converters.convert {following}")
    return 0


if __name__ == "__main__":
    sys.exit(ending.status_of(main))
