"""Many clips in one run: a file with a job a line, done one after the other by one animator.

What is finished is not made again, and what fails is told and left, so that the same command goes
on where it ended. Machines share a file by taking every n-th of its lines.
"""

from __future__ import annotations

import copy
import json
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax

from dispose_jax import inputs, job, memory, provenance, settings
from dispose_jax.counting import counted
from dispose_jax.job import Job
from dispose_jax.media import output

FILES = ("reference", "reference_pose", "driving", "poses")
KEYS = (*FILES, "output", "seed", "sample")


@dataclass(frozen=True)
class Line:
    """A clip that is asked for: number in the file, from 1; values of `config.sample` as text."""

    number: int
    sources: inputs.Sources
    output: Path
    seed: int | None = None
    sample: dict[str, str] = field(default_factory=dict)

    def config_of(self, config):
        """The run's config with this line's own values. Raises ValueError for impossible ones."""
        made = copy.deepcopy(config)  # with the types of values that may be several
        if self.seed is not None:
            made.seed = self.seed
        for name, text in self.sample.items():
            settings.override(made, f"sample.{name}", text)
        settings.check(made)
        return made


def read(path: Path) -> list[Line]:
    """The jobs of a file of JSON lines; empty lines are none.

    A line names files as the flags of sample.py do: `reference`, `reference_pose`, `driving`,
    `poses` and `output`, and may have a `seed` and an object `sample` of settings. Raises
    ValueError that names the line for anything else, for files that two lines would write, and for
    ones that a line would write over before or while they are read.
    """
    try:
        # Not splitlines: names may hold characters that it takes for ends of lines.
        texts = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ValueError(f"--jobs {path}: cannot read this file: {reason}") from error
    lines = [_line(path, i, text) for i, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise ValueError(f"--jobs {path}: holds no job; expected one in JSON on every line")
    first: dict[Path, int] = {}
    for line in lines:
        for place in job.outputs(output.place(line.output)):
            if place in first:
                raise ValueError(
                    f"--jobs {path}, line {line.number}: with {line.output} goes {place.name}, "
                    f"which line {first[place]} writes too; give each its own output"
                )
            first[place] = line.number
    read = [
        (line.number, f", line {line.number}", file)
        for line in lines
        for file in line.sources.files.values()
    ]
    videos = {output.place(line.output): line.number for line in lines}
    for number, where, file in [(0, "", path), *read]:
        place = output.place(file)
        if videos.get(place, number) < number:
            continue  # what an earlier line makes may drive a later one
        if place in first:
            raise ValueError(
                f"--jobs {path}{where}: line {first[place]} would write over {file}; give that one "
                "another output"
            )
    return lines


def _line(path: Path, number: int, text: str) -> Line:
    where = f"--jobs {path}, line {number}"
    try:
        given = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f'{where}: expected an object such as {{"output": "a.mp4", ...}}')
    if unknown := sorted(given.keys() - set(KEYS)):
        raise ValueError(f"{where}: {unknown[0]!r} is none of {', '.join(KEYS)}")
    for name in (*FILES, "output"):
        if not _is_name(given.get(name, "")):
            raise ValueError(f"{where}: {name} is {given[name]!r}: expected a file's name")
    if not given.get("output"):
        raise ValueError(f"{where}: has no output; name the video to write")
    settings.refuse_addresses({f"{where}: {name}": given.get(name) for name in (*FILES, "output")})
    seed, sample = given.get("seed"), given.get("sample", {})
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool)):
        raise ValueError(f"{where}: seed is {seed!r}: expected a whole number")
    if not isinstance(sample, dict):
        raise ValueError(f"{where}: sample is {sample!r}: expected an object of settings")
    # As of flags, which a shell or settings.at_home replaces.
    place = lambda name: Path(os.path.expanduser(given[name]))
    files = [place(name) if given.get(name) else None for name in FILES]
    texts = {
        name: value if isinstance(value, str) else str(value) for name, value in sample.items()
    }
    return Line(number, inputs.Sources(*files), place("output"), seed, texts)


def _once(pairs: list[tuple[str, object]]) -> dict:
    """An object of JSON. Raises ValueError for a name that it has twice: the last would win."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands in it twice")
    return made


def _is_name(value: object) -> bool:
    """Whether this is a text that can be a file's name."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:  # half a character
        return False


def shard(lines: Sequence[Line], text: str | None) -> list[Line]:
    """The share "i/n" of the jobs, i from 1 to n: every n-th one; all of them for None.

    Raises ValueError for any other text.
    """
    if text is None:
        return list(lines)
    part, slash, parts = text.partition("/")
    numbers = part.isdecimal() and parts.isdecimal()
    if not (slash and numbers and 1 <= int(part) <= int(parts)):
        raise ValueError(f"--shard is {text!r}: expected i/n with i from 1 to n, such as 2/4")
    return list(lines)[int(part) - 1 :: int(parts)]


def run(
    config,
    given: tuple[str, ...],
    lines: Sequence[Line],
    explain: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Do the jobs. Raises ValueError at the end if some failed, which was said when they did."""
    jax.devices()  # raises where there are none, which is no single job's fault
    failed: list[int] = []
    shared, built = None, None  # the last animator, and the settings that it was built with
    for i, line in enumerate(lines, start=1):
        name = f"{line.output} (line {line.number}, {i} of {len(lines)})"
        try:
            own = line.config_of(config)
            if finished(line, own, given, explain):
                say(f"{name}: finished before")
                continue
            say(f"{name} ...")
            # Networks without weights are drawn from the seed.
            drawn = shared is not None and shared.weights.random
            if built != line.sample or (drawn and shared.config.seed != own.seed):
                shared = None
            made = Job(own, given, line.sources, line.output, explain, say, shared)
            shared, built = made.animator, line.sample
            job.run(made)
        except Exception as error:
            say(f"{name}: failed: {_reason(error)}")
            failed.append(line.number)
    if failed:
        numbers = ", ".join(map(str, failed))
        raise ValueError(
            f"{len(failed)} of {counted(len(lines), 'job')} failed, of lines {numbers}; the "
            "same command tries again what failed"
        )


def _reason(error: Exception) -> str:
    """Why a job failed. A defect, whose traceback is printed, is no reason to leave the others."""
    if isinstance(error, (ValueError, OSError)):
        return " ".join(str(error).split())
    if memory.is_exhausted(error):
        return "out of memory"
    traceback.print_exception(error)
    return f"an error that should not be ({type(error).__name__}); its traceback says where"


def finished(line: Line, config, given: tuple[str, ...], explain: bool) -> bool:
    """Whether an earlier run made this video of these settings, sources and weights, and the
    sources are the files that it read, by their sizes and times."""
    record = line.output.with_suffix(".json")
    endings = job.EXPLANATION if explain else ()
    beside = [line.output.with_name(line.output.stem + ending) for ending in endings]
    try:
        about = json.loads(record.read_text(encoding="utf-8"))
        made = record.stat().st_mtime
    except (OSError, ValueError):
        return False
    files = provenance.stamps(line.sources)
    whole = all(path.is_file() for path in (line.output, *beside))
    if not whole or files.keys() != line.sources.files.keys():
        return False
    asked = provenance.asked(config, line.sources, given)
    # Records of earlier versions lack the bundles' digests and the files' stamps.
    held = isinstance(about, dict) and "config" in about
    same = held and all(about.get(name, value) == value for name, value in asked.items())
    older = all(file["modified"] <= made for file in files.values())
    return same and (about["files"] == files if "files" in about else older)
