"""A prepared set on disk: one clip <-> one ArrayRecord entry, and the set's meta.json (host code).

    meta.json                               what all clips were made with
    clips-NAME-DIGEST-00008.arrayrecord     the clips of one video, their number in the name

A file per video, written under a temporary name and renamed, so that preparing can be interrupted
and spread over machines; what a set holds is what its listing shows. Entries are safetensors:
nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from array_record.python import array_record_module
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dispose_jax import plain
from dispose_jax.media import output
from dispose_jax.types import Impulses, Pose

FORMAT = 1
META = "meta.json"
JPEG_QUALITY = 95
OPEN_FILES = 128  # a set of thousands of videos must not use up the process's file handles
_NAME = re.compile(r"clips-.*-[0-9a-f]{8}-(\d{5})\.arrayrecord")
_POSE = ("body", "body_score", "hands", "hands_score", "face", "face_score")


class Record(NamedTuple):
    """A clip; frame 0 is the reference. What the set does not hold is None."""

    frames: np.ndarray  # (f, h, w, 3) uint8; (1, h, w, 3) beside a posterior
    pose: Pose  # f frames, fractions of these pictures
    guides: Impulses | None  # (f, k, ..) pixels of CMP's square
    point_features: np.ndarray | None  # (18, d) float16
    posterior: np.ndarray | None  # (f, h/8, w/8, 2 c) float16: mean and logvar
    video: str  # the source, relative to the folder that was prepared
    indices: np.ndarray  # (f,) int64: frames of the source


def encode(record: Record) -> bytes:
    """A clip as bytes. Pictures become JPEG, colours at full resolution; the rest stays exact.

    Positions are float64: in float32 a joint could fall into the next cell.
    """
    pictures = [_jpeg(frame) for frame in record.frames]
    tensors = {
        "jpeg": np.concatenate(pictures),
        "jpeg_lengths": np.array([len(picture) for picture in pictures]),
        "video": np.frombuffer(_name_bytes(record.video), np.uint8),
        "indices": np.asarray(record.indices, np.int64),
    }
    for name in _POSE:
        tensors[name] = np.asarray(getattr(record.pose, name), np.float64)
    if record.guides is not None:
        tensors |= {f"guides.{name}": leaf for name, leaf in record.guides._asdict().items()}
    for name in ("point_features", "posterior"):
        if getattr(record, name) is not None:
            tensors[name] = np.asarray(getattr(record, name), np.float16)
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})


def decode(content: bytes) -> Record:
    """A clip from its bytes. Raises ValueError saying what is wrong with them."""
    try:
        tensors = load(content)
        lengths = tensors["jpeg_lengths"]
        frames = [_picture(part) for part in np.split(tensors["jpeg"], np.cumsum(lengths)[:-1])]
        guides = None
        if "guides.valid" in tensors:
            guides = Impulses(*(tensors[f"guides.{name}"] for name in Impulses._fields))
        return Record(
            frames=np.stack(frames),
            pose=Pose(**{name: tensors[name] for name in _POSE}),
            guides=guides,
            point_features=tensors.get("point_features"),
            posterior=tensors.get("posterior"),
            video=tensors["video"].tobytes().decode(errors="surrogateescape"),
            indices=tensors["indices"],
        )
    except KeyError as error:
        raise ValueError(f"it lacks {error.args[0]}") from error
    except SafetensorError as error:
        raise ValueError(f"its bytes are no tensors: {error}") from error


def file_name(video: str, count: int) -> str:
    """The file for a number of clips of a video, named relative to the prepared folder."""
    return f"{_prefix(video)}{count:05d}.arrayrecord"


def existing(folder: Path, video: str) -> int | None:
    """How many clips of a video a folder holds; None if it has not been prepared."""
    prefix = _prefix(video)
    counts = [_count(name) for name in os.listdir(folder) if name.startswith(prefix)]
    return next((count for count in counts if count is not None), None)


def write(folder: Path, video: str, clips: Sequence[bytes]) -> None:
    """Write the clips of a video, whole or not at all. Raises OSError with one sentence."""
    path = folder / file_name(video, len(clips))
    for left in folder.glob(f".{_prefix(video)}*"):  # of a run that was killed
        left.unlink(missing_ok=True)
    with output.replacing(path) as temporary, output.explained(path):
        try:
            writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
            for content in clips:
                writer.write(content)
            writer.close()
        except (RuntimeError, ValueError) as error:  # how the writer tells of a full disk
            raise OSError(str(error).split(";")[0]) from error


class PreparedClips:
    """The clips of a set by number, for reading in any order and from several threads."""

    def __init__(self, folder: str | os.PathLike):
        """Raises ValueError if the folder holds no clips."""
        self.folder = Path(folder)
        names = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        counts = {name: count for name in names if (count := _count(name)) is not None}
        self.names, self.ends = list(counts), np.cumsum([0, *counts.values()])[1:]
        if not len(self):
            raise ValueError(
                f"{self.folder}: holds no clips; make some with python -m dispose_jax.data.prepare"
            )
        self._open_none()

    def _open_none(self) -> None:
        self._readers: OrderedDict[str, object] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> Record:
        """Raises ValueError naming file and entry if it is damaged."""
        file = int(np.searchsorted(self.ends, index, side="right"))
        entry = int(index - (self.ends[file - 1] if file else 0))
        path = self.folder / self.names[file]
        try:
            return decode(self._reader(path).read([entry])[0])
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path}: clip {entry} cannot be read ({reason}); delete the file and prepare its "
                "video again"
            ) from error

    def __getstate__(self) -> dict:
        # Another process opens its own files. Not those of a new listing: if the set has grown
        # since, clips would have other numbers there.
        return {"folder": self.folder, "names": self.names, "ends": self.ends}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open_none()

    def _reader(self, path: Path):
        """The open file; the one unused for longest is closed when nobody reads it any more."""
        with self._lock:
            reader = self._readers.pop(path.name, None)
            if reader is None:
                reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")
            self._readers[path.name] = reader
            if len(self._readers) > OPEN_FILES:
                self._readers.popitem(last=False)
        return reader


def digest(folder: str | os.PathLike) -> str:
    """What tells a set from another wherever it lies: its meta.json, and the names and sizes of its
    files. Raises ValueError if it cannot be read."""
    read_meta(folder)
    folder = Path(folder)
    names = sorted(name for name in os.listdir(folder) if _count(name) is not None)
    lines = [f"{name} {(folder / name).stat().st_size}" for name in names]
    content = (folder / META).read_text(encoding="utf-8") + "\n".join(lines)
    return hashlib.sha256(content.encode()).hexdigest()


def describe(config, *, flow: str, features: bool, latents: bool, weights: Mapping) -> dict:
    """The content of meta.json: all that clips depend on besides the videos.

    flow: "raft" or "dis". features, latents: whether point features and posteriors are stored.
    weights: {network: where it comes from}.
    """
    data, train = config.data, config.train
    near = {"ref_window": data.ref_window} if data.reference == "near" else {}
    content = {
        "format": FORMAT,
        "height": train.height,
        "width": train.width,
        "frames": train.frames,
        "seed": config.seed,
        "clips_per_video": data.clips_per_video,
        "stride": data.stride,
        "reference": {"from": data.reference, **near},
        "guides": None,
        "point_features": None,
        "posterior": None,
        "weights": weights,
    }
    if has_guides(config):
        content["guides"] = {
            "flow": flow,
            "flow_short_side": data.flow_short_side,
            "side": config.motion.cmp_size,
            "kernel": data.guide_kernel,
            "bg_ratio": data.guide_bg_ratio,
            "max": data.max_guides,
        }
    if features:
        numbers = ("prompt", "timestep", "up_block", "ensemble")
        content["point_features"] = {name: config.dift[name] for name in numbers}
        content["point_features"]["model"] = config.model.dift
    if latents:
        content["posterior"] = {"model": config.model.vae}
    return plain.values(content)


def has_guides(config) -> bool:
    """Whether training with a config reads guidance points that were prepared."""
    return "dense" in config.control.motion and config.train.guides == "flow"


def open_set(folder: Path, content: Mapping) -> None:
    """Make a folder's meta.json, or check that it is this one; several machines may do so at once.

    Raises ValueError if the folder was prepared with other settings.
    """
    path = folder / META
    text = json.dumps(content, indent=2) + "\n"
    temporary = output.prepare(folder / f".{META}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with output.explained(path):
            temporary.write_text(text, encoding="utf-8")
            try:
                os.link(temporary, path)  # fails where there is one, even if it came just now
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                if not path.exists():
                    os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    found = read_meta(folder)
    different = plain.differences(found, json.loads(text))
    if different:
        raise ValueError(
            f"{folder}: a set prepared with other settings or weights ({different}); "
            "give the same ones, or another --out"
        )


def read_meta(folder: str | os.PathLike) -> dict:
    """A set's meta.json. Raises ValueError if there is none, or it cannot be read."""
    path = Path(folder) / META
    if not path.is_file():
        raise ValueError(
            f"{folder}: no {META} in it, so it is no prepared set; make one with "
            "python -m dispose_jax.data.prepare --videos VIDEOS --out SET"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); prepare the set again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format {found!r} of a prepared set, this reads format {FORMAT}")
    return content


def check(folder: str | os.PathLike, config) -> dict:
    """The meta.json of a set that can train with a config; else ValueError with every difference.

    Longer clips than the config's are fine, as are guides and features that it does not use. Which
    clips were drawn (seed, clips per video) is the set's own affair.
    """
    found = read_meta(folder)
    guides = found.get("guides") or {}
    flow = guides.get("flow") if config.data.flow == "auto" else config.data.flow
    held = {name: found.get(name) is not None for name in ("point_features", "posterior")}
    expected = describe(
        config,
        flow=flow,
        features=held["point_features"] and bool(config.control.points),
        latents=held["posterior"],
        weights={},
    )
    ignored = {"seed", "clips_per_video", "weights"}
    ignored |= {name for name in ("guides", "point_features") if expected[name] is None}
    if isinstance(found.get("frames"), int) and found["frames"] >= expected["frames"]:
        ignored.add("frames")
    compared = lambda content: {k: v for k, v in content.items() if k not in ignored}
    different = plain.differences(compared(found), compared(expected))
    if different:
        raise ValueError(
            f"{folder}: a set prepared with other settings ({different}); prepare one "
            "with this config, or change the config to the set's"
        )
    return found


def _prefix(video: str) -> str:
    """Start of the name of a video's file: the digest tells a.mp4 from a.mov and b/a.mp4."""
    stem = re.sub(r"[^\w.]", "_", Path(video).stem, flags=re.ASCII)[:80]
    return f"clips-{stem}-{zlib.crc32(_name_bytes(video)):08x}-"


def _name_bytes(video: str) -> bytes:
    """A video's name as the file system has it, which may be other than UTF-8."""
    return video.encode(errors="surrogateescape")


def _count(name: str) -> int | None:
    """The number of clips in a file of that name; None if it is no such file."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def _jpeg(frame: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> the bytes of a JPEG, (n,) uint8."""
    # Half the colour resolution, the default, would blur clothes in small pictures.
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, content = cv2.imencode(".jpg", frame[..., ::-1], options)
    assert done
    return content


def _picture(content: np.ndarray) -> np.ndarray:
    """The bytes of a JPEG -> (h, w, 3) uint8 RGB."""
    picture = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if picture is None:
        raise ValueError("a picture of it is no JPEG")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
