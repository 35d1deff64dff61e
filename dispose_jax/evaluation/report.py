"""What a measurement of real videos leaves behind: a table for people, JSON with everything."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

from dispose_jax import provenance
from dispose_jax.counting import counted
from dispose_jax.evaluation.measure import Results, Score
from dispose_jax.evaluation.metrics import METRICS, STILL, Metric
from dispose_jax.media import output

FILES = ("metrics.md", "metrics.json")
_ARROWS = {"lower": "↓", "higher": "↑"}
_VBENCH = {"motion_smoothness": "motion smoothness", "imaging_quality": "imaging quality"}


def read_vbench(path: Path) -> dict[str, float]:
    """Scores 0..100 of the dimensions of _VBENCH in a result file that VBench wrote.

    Such a file holds {dimension: [score, videos]}; scores up to 1 are multiplied by 100. Raises
    ValueError if it is no such file or holds none of them.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {name: content[name][0] for name in _VBENCH if name in content}
        found = {name: float(v) * (100 if float(v) <= 1 else 1) for name, v in found.items()}
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: not a result file of VBench ({error})") from None
    if not found:
        raise ValueError(f"{path}: holds neither {' nor '.join(_VBENCH)}; run VBench on them")
    for name, value in found.items():
        if not math.isfinite(value):
            raise ValueError(f"{path}: {name} is {value}, which is no score; run VBench again")
    return found


def write(folder: str | Path, results: Results, vbench: dict[str, float]) -> list[Path]:
    """Write FILES into a folder, each whole or not at all. Raises OSError with one sentence."""
    paths = [output.prepare(Path(folder) / name) for name in FILES]
    # A clip's name may have bytes that are no text.
    output.write_bytes(paths[0], table(results, vbench).encode(errors="backslashreplace"))
    output.write_json(paths[1], numbers(results, vbench))
    return paths


def table(results: Results, vbench: dict[str, float]) -> str:
    """The set's numbers, then every clip's, in Markdown."""
    request, has_real = results.request, bool(results.real)
    header = ["metric", "generated", *(["real videos"] if has_real else []), "what it is"]
    lines = [
        f"{request.fake} against {request.real}" if request.real else f"{request.fake}",
        "",
        _line(header),
        _line(["---"] * len(header)),
    ]
    for name, score in results.fake.items():
        metric = METRICS[name]
        cells = [_title(metric), _value(metric, score)]
        if has_real:
            own = results.real.get(name)
            cells.append(_value(metric, own) if own else "")
        lines.append(_line([*cells, _about(metric, score)]))
    for name, value in vbench.items():
        blank = [""] if has_real else []
        lines.append(
            _line([f"{_VBENCH[name]} ↑ (0-100)", f"{value:.2f}", *blank, "measured by VBench"])
        )
    lines += ["", *_remarks(results), *_clips(results)]
    return "\n".join(lines) + "\n"


def numbers(results: Results, vbench: dict[str, float]) -> dict:
    """Everything as plain JSON: numbers, options, weights, versions."""
    request = results.request
    return {
        "fake": {name: asdict(score) for name, score in results.fake.items()},
        "real": {name: asdict(score) for name, score in results.real.items()},
        "vbench": vbench,
        "skipped": results.skipped,
        "notes": results.notes,
        "rates": results.rates,
        "metrics": {name: METRICS[name]._asdict() for name in results.fake},
        "options": {
            "fake": str(request.fake),
            "real": str(request.real) if request.real else None,
            "weights": list(request.weights),
            "size": request.size,
            "stride": request.stride,
            "fps": request.fps,
        },
        "networks": results.digests,
        **provenance.program(),
    }


def _title(metric: Metric) -> str:
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.title} {_ARROWS[metric.better]}{unit}"


def _value(metric: Metric, score: Score) -> str:
    text = f"{score.value * metric.scale:.{metric.digits}f}"
    if score.interval:
        low, high = (f"{bound:.{metric.digits}f}" for bound in score.interval)
        text += f" ({low} to {high})"
    return text


def _about(metric: Metric, score: Score) -> str:
    """A row's last cell; for a Fréchet metric with what a number of it is worth."""
    if metric.kind != "frechet":
        return metric.about
    parts = [metric.about, f"{counted(score.clips, 'clip')}, {counted(score.windows, 'window')}"]
    if score.floor is not None:
        parts.append(f"real against real by halves {score.floor:.{metric.digits}f}")
    if score.caution:
        parts.append(score.caution)
    return "; ".join(parts)


def _remarks(results: Results) -> list[str]:
    """What a reader must know before comparing."""
    lines = [part for note in results.notes for part in (f"{note}.", "")]
    shown = results.fake
    if any(name in shown for name in STILL):
        lines += [
            "Flickering and both consistencies reward stillness: a copied picture scores 100. Read "
            "them beside the dynamic degree"
            + (" and the real videos' own column." if results.real else ", or with --real."),
            "",
        ]
    if any(METRICS[name].kind == "frechet" for name in shown):
        lines += [
            "Fréchet distances: in brackets 95 % of a bootstrap over videos, whose draws repeat "
            "videos and lie too high: read its width. Compare only with numbers of the same "
            "frames, the same count and one program.",
            "",
        ]
    lines += [f"Skipped: {METRICS[name].title}: {why}." for name, why in results.skipped.items()]
    return lines + ([""] if results.skipped else [])


def _clips(results: Results) -> list[str]:
    """A row for every clip of the metrics that clips have."""
    columns = {name: score for name, score in results.fake.items() if score.by_clip}
    if not columns:
        return []
    titles = [_title(METRICS[name]) for name in columns]
    lines = [_line(["generated clip", *titles]), _line(["---"] * (1 + len(titles)))]
    for clip in next(iter(columns.values())).by_clip:
        values = [
            f"{score.by_clip[clip] * METRICS[name].scale:.{METRICS[name].digits}f}"
            for name, score in columns.items()
        ]
        lines.append(_line([clip, *values]))
    return lines


def _line(cells: list[str]) -> str:
    cells = [cell.replace("|", r"\|") for cell in cells]  # in a clip's name
    return f"| {' | '.join(cells)} |"
