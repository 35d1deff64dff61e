"""What the evaluation leaves behind: numbers, a table, and pictures of some clips (host code)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dispose_jax import provenance
from dispose_jax.counting import counted
from dispose_jax.evaluation import statistics
from dispose_jax.evaluation.ablation import contact_sheet
from dispose_jax.evaluation.ablation.clips import SETS
from dispose_jax.evaluation.ablation.metrics import METRICS
from dispose_jax.evaluation.ablation.run import AblationResults, Contrast, contrasts, dropped
from dispose_jax.evaluation.ablation.variants import CONTROLS
from dispose_jax.media import image, output, video

FILES = ("clips.png", "clips.mp4", "table.md", "results.json")
FPS = 7  # of the video; drawn people have no clock of their own
ARROWS = {"lower": "↓", "higher": "↑"}


def write(folder: str | Path, results: AblationResults) -> list[Path]:
    """Write FILES into a folder, each whole or not at all, results.json last. Returns their paths.

    Raises OSError with one sentence.
    """
    paths = [output.prepare(Path(folder) / name) for name in FILES]
    found = contrasts(results)
    image.write_png(paths[0], contact_sheet.sheet(results))
    video.write(paths[1], contact_sheet.movie(results), FPS)
    output.write_bytes(paths[2], table(results, found).encode())
    output.write_json(paths[3], numbers(results, found))
    return paths


def numbers(results: AblationResults, found: list[Contrast]) -> dict:
    """Every number of the evaluation and what it depended on, as plain JSON; NaN is null."""
    config = results.arms[0].config
    return {
        "clips": results.num_clips,
        "arms": [
            {
                "variant": arm.variant,
                "weights": list(arm.given),
                "digests": arm.weights.digests,
                "parameters": arm.parameters,
                "added": arm.added,
            }
            for arm in results.arms
        ],
        "metrics": {name: metric._asdict() for name, metric in METRICS.items()},
        "scores": {
            kind: {row: _by_metric(values) for row, values in rows.items()}
            for kind, rows in results.scores.items()
        },
        "contrasts": [
            {
                "set": one.kind,
                "full minus": one.row,
                "metric": one.metric,
                **one.difference._asdict(),
                "holm": one.adjusted,
                "verdict": one.verdict,
            }
            for one in found
        ],
        "copy beats base": [list(place) for place in dropped(results)],
        "config": json.loads(config.to_json(), parse_constant=str),
        **provenance.program(),
    }


def table(results: AblationResults, found: list[Contrast]) -> str:
    """The same for people, in Markdown: means of every row, then differences from the full
    model."""
    frames = results.arms[0].frames - 1
    random = sorted({name for arm in results.arms for name in arm.weights.random})
    lines = [
        f"Drawn people that training never saw: {results.num_clips} clips of {frames} frames; the "
        "reference is not scored. *same*: driven by the person's own poses; *cross*: by those of a "
        "body with other limbs. Means over seeds and clips, ± the deviation between seeds. This "
        "shows whether the parts work in this implementation, on drawn people; the paper's numbers "
        "are of real videos.",
        "",
    ]
    if random:
        lines += [f"**Random weights**, so nothing here means anything: {', '.join(random)}.", ""]
    for kind in SETS:
        titles = [f"{metric.title} {ARROWS[metric.better]}" for metric in METRICS.values()]
        lines += [
            f"## {kind}",
            "",
            _line([kind, "seeds", "added parameters", *titles]),
            _line(["---"] * (3 + len(METRICS))),
        ]
        lines += [_line(_row(results, kind, row)) for row in results.rows] + [""]
    better = dropped(results)
    for kind in SETS:
        names = [METRICS[name].title for place, name in better if place == kind]
        if names:
            lines += [
                f"*{kind}*, a copy of the reference is better than the base by {', '.join(names)}: "
                "no claim about quality rests on these there.",
                "",
            ]
    return "\n".join(lines + _differences(found))


def _differences(found: list[Contrast]) -> list[str]:
    """The second part of the table."""
    if not found:
        return ["No arm `full`: no differences to show."]
    lines = [
        "## Full minus the others",
        "",
        "Paired over the same clips and noise: mean and 95 % interval of a hierarchical bootstrap "
        "(seeds, then clips). Separated: the interval excludes 0, at least 80 % of the seeds agree "
        "and p, for the differences that were expected beforehand Holm's, is at most 0.05, which "
        "under six clips cannot reach.",
        "",
    ]
    fewest = min(one.difference.seeds for one in found)
    if fewest < statistics.FEWEST_SEEDS:
        lines += [
            f"**{counted(fewest, 'training seed')}** in some rows: what is separated there is "
            "about these weights, not about the method, for which few seeds agree by chance; at "
            f"least {statistics.FEWEST_SEEDS} are wanted.",
            "",
        ]
    lines += [
        _line(["full minus", "metric", "set", "seeds", "difference", "interval", "Holm p", ""]),
        _line(["---"] * 8),
    ]
    for one in sorted(found, key=lambda one: (_position(found, one.row), one.metric)):
        d, digits = one.difference, METRICS[one.metric].digits + 1
        holm = "" if one.adjusted is None else f"{one.adjusted:.4f}"
        interval = f"{d.low:+.{digits}f} to {d.high:+.{digits}f}"
        title, mean = METRICS[one.metric].title, f"{d.mean:+.{digits}f}"
        cells = [one.row, title, one.kind, d.seeds, mean, interval, holm, one.verdict]
        lines.append(_line(cells))
    return [*lines, ""]


def _position(found: list[Contrast], row: str) -> int:
    return [one.row for one in found].index(row)


def _row(results: AblationResults, kind: str, row: str) -> list[str]:
    """The cells of one row's means; a standard deviation over seeds where there are several."""
    arms = {arm.variant: arm for arm in results.arms}
    owner = next((v for v in arms if row == v or row in CONTROLS.get(v, ())), None)
    added = f"{arms[owner].added:,}" if owner else ""
    cells = [row, str(len(results.scores[kind][row])) if owner else "", added]
    for name, metric in METRICS.items():
        values = results.of(kind, row, name)
        if np.isnan(values).all():
            cells.append("")
            continue
        each = np.nanmean(values, axis=1)
        spread = f" ± {each.std(ddof=1):.{metric.digits}f}" if len(each) > 1 else ""
        cells.append(f"{each.mean():.{metric.digits}f}{spread}")
    return cells


def _by_metric(values: np.ndarray) -> dict[str, list]:
    """(seeds, clips, metrics) -> {metric: a list of clips for each seed}, None for NaN."""
    plain = lambda x: None if np.isnan(x) else float(x)
    return {
        name: [[plain(x) for x in seed] for seed in values[..., i]]
        for i, name in enumerate(METRICS)
    }


def _line(cells: list) -> str:
    return f"| {' | '.join(map(str, cells))} |"
