"""Many clips in one run: a file with a job a line, done one after the other by one animator.

What is finished is not made again, and what fails is told and left, so that the same command goes
on where it ended. Machines share a file by taking every n-th of its lines; processes that were
given the same ones leave to each other what one of them is making.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import jax

from dispose_jax import job, limits, memory, provenance, settings
from dispose_jax.animator import Animator
from dispose_jax.counting import counted
from dispose_jax.inputs.sources import FILES, Sources
from dispose_jax.job import Job
from dispose_jax.media import output

KEYS = (*FILES, "output", "seed", "sample")
SHOWN = 5  # lines of one trouble that are named


@dataclass(frozen=True)
class Line:
    """A clip that is asked for: number in the file, from 1; values of `config.sample` as text."""

    number: int
    sources: Sources
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
        settings.refuse_void(made, [f"sample.{name}" for name in self.sample])
        limits.check(made)
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
    _refuse_overwriting(path, lines)
    return lines


def _refuse_overwriting(path: Path, lines: Sequence[Line]) -> None:
    """Raise ValueError if a line would write what another one writes, or over what is read."""
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


def _line(path: Path, number: int, text: str) -> Line:
    """The job of one line of a file. Raises ValueError that names the line."""
    where = f"--jobs {path}, line {number}"
    given = _object(where, text)
    seed, sample = given.get("seed"), given.get("sample", {})
    if seed is not None and not (isinstance(seed, int) and not isinstance(seed, bool)):
        raise ValueError(f"{where}: seed is {seed!r}: expected a whole number")
    if not isinstance(sample, dict):
        raise ValueError(f"{where}: sample is {sample!r}: expected an object of settings")
    _check_sources(where, given)
    # As of flags, which a shell or settings.at_home replaces.
    place = lambda name: Path(os.path.expanduser(given[name]))
    files = [place(name) if given.get(name) else None for name in FILES]
    texts = {name: str(value) for name, value in sample.items()}
    return Line(number, Sources(*files), place("output"), seed, texts)


def _object(where: str, text: str) -> dict[str, object]:
    """What a line of JSON holds, by KEYS; where: the line, for messages."""
    try:
        given = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f'{where}: expected an object such as {{"output": "a.mp4", ...}}')
    if unknown := sorted(given.keys() - set(KEYS)):
        raise ValueError(f"{where}: {unknown[0]!r} is none of {', '.join(KEYS)}")
    return given


def _check_sources(where: str, given: dict[str, object]) -> None:
    """Raise ValueError unless a line names files of this machine, and all that a job needs."""
    names = (*FILES, "output")
    for name in names:
        if not _is_name(given.get(name, "")):
            raise ValueError(f"{where}: {name} is {given[name]!r}: expected a file's name")
    if not given.get("output"):
        raise ValueError(f"{where}: has no output; name the video to write")
    settings.refuse_addresses({f"{where}: {name}": given.get(name) for name in names})
    if Path(given["output"]).suffix.lower() != ".mp4":
        raise ValueError(f"{where}: output is {given['output']!r}: expected a name ending in .mp4")
    if not given.get("reference"):
        raise ValueError(f"{where}: has no reference; name the picture to animate")
    if not (given.get("driving") or given.get("poses")):
        raise ValueError(f"{where}: has neither driving nor poses; name one or both")


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


def run(
    config,
    given: tuple[str, ...],
    lines: Sequence[Line],
    explain: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Do the jobs, but for those that another process is doing, and what needs their videos.

    Raises ValueError before the first one for settings and weights that cannot be worked with, and
    at the end if some failed, which was said when they did.
    """
    jax.devices()  # raises where there are none, which is no single job's fault
    limits.check(config)
    configs = [_config_of(line, config) for line in lines]
    left = [line for line, own in zip(lines, configs) if not finished(line, own, given, explain)]
    # What is wrong with the weights is said once, before a night of jobs that would all fail by it.
    shared = Animator(config, given, say=say) if left else None
    _forewarn(left, shared is not None and shared.weights.pose_folder is not None, say)
    failed: list[int] = []
    others: dict[Path, int] = {}  # videos that are left to other processes, and their lines
    for i, (line, own) in enumerate(zip(lines, configs), start=1):
        name = f"{line.output} (line {line.number}, {i} of {len(lines)})"
        try:
            if awaited := [f for f in line.sources.files.values() if output.place(f) in others]:
                # It may be there, from an earlier run with other settings.
                say(f"{name}: another process is making {awaited[0]}, which it needs")
                others[output.place(line.output)] = line.number
                continue
            if finished(line, own, given, explain):
                say(f"{name}: finished before")
                continue
            with _claimed(line.output) as is_ours:
                if not is_ours:
                    say(f"{name}: another process is making it")
                    others[output.place(line.output)] = line.number
                elif finished(line, own, given, explain):
                    say(f"{name}: finished meanwhile")
                else:
                    say(f"{name} ...")
                    shared = _animator(shared, own, given, say)
                    job.run(Job(own, given, line.sources, line.output, explain, say, shared))
        except Exception as error:
            say(f"{name}: failed: {_reason(error)}")
            failed.append(line.number)
    if others:
        say(
            f"{len(others)} of {counted(len(lines), 'job')} left to other processes, of "
            f"lines {', '.join(map(str, others.values()))}; the same command makes what they do not"
        )
    if failed:
        numbers = ", ".join(map(str, failed))
        raise ValueError(
            f"{len(failed)} of {counted(len(lines), 'job')} failed, of lines {numbers}; the "
            "same command tries again what failed"
        )


@contextmanager
def _claimed(video: Path) -> Iterator[bool]:
    """Whether this process is the only one to make a video while the block lasts.

    A lock tells, on a hidden file beside it, which ends with its process in whatever way. Where the
    disk has no locks, nobody knows of others. Raises ValueError or OSError with one sentence if
    nothing can be written there.
    """
    place = output.prepare(video).with_name(f".{video.name}.lock")
    while True:
        with output.explained(place):
            file = open(place, "wb")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:
                pass
            if not _lies(file, place):
                continue  # its holder removed it meanwhile: others lock a new one
            try:
                yield True
            finally:
                place.unlink(missing_ok=True)
            return


def _lies(file: IO, place: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(place))
    except FileNotFoundError:
        return False


def _config_of(line: Line, config):
    """The line's config; the error names the line."""
    try:
        return line.config_of(config)
    except ValueError as error:
        raise ValueError(f"--jobs, line {line.number}: {error}") from error


def _forewarn(lines: Sequence[Line], detects: bool, say: Callable[[str], None]) -> None:
    """Say what lines that are to be done lack, while somebody looks on: files that are not there,
    and keypoints if nothing detects them; once what several lack. Files may still come, as what an
    earlier line makes does, so this is no error."""
    made: set[Path] = set()
    lacking: dict[str, list[int]] = {}  # what -> numbers of lines
    for line in lines:
        files = line.sources.files
        absent = [
            f"{name} {file}: no such file"
            for name, file in files.items()
            if not os.path.exists(file) and output.place(file) not in made
        ]
        kept = os.path.exists(line.output.with_name(line.output.stem + job.KEYPOINTS))
        if not (detects or kept or {"reference_pose", "poses"} <= files.keys()):
            absent.append("keypoints are not given, and no weights folder holds DWPose's files")
        for what in absent:
            lacking.setdefault(what, []).append(line.number)
        made.add(output.place(line.output))
    for what, numbers in lacking.items():
        named = ", ".join(map(str, numbers[:SHOWN]))
        more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
        which = f"line{'s' if len(numbers) > 1 else ''} {named}{more}"
        say(f"warning: {which} will fail as things are: {what}")


def _animator(
    last: Animator | None, own, given: tuple[str, ...], say: Callable[[str], None]
) -> Animator:
    """One for a job's config, with the weights of the last one where it may have them, and the
    keypoints that it found."""
    # Networks without weights are drawn from the seed.
    if last is not None and not (last.weights.random and last.config.seed != own.seed):
        with suppress(ValueError):  # other networks
            return last.under(own)
    return Animator(own, given, say=say, recent=None if last is None else last.recent)


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
