"""The paper's tables on your own data: animate, measure, print ours beside the printed numbers.

  python -m dispose_jax.evaluation.paper --table 1 --data TIKTOK --weights BUNDLE --workdir RUN
  python -m dispose_jax.evaluation.paper --table 3 ... --ablation no_motion=A,no_point=B

Tables 1, 3, 4, 6 and 7 use TikTok's sequences 335 to 340, each animated from its own first frame;
tables 2 and 5 want pairs of NAME.png and a video NAME, as the paper's were not published. --weights
also holds the measuring networks. Run it again after anything stopped it: finished clips stay.
Several machines share the work with --shard i/n and one workdir; a last run without it measures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

import jax
from absl import flags

from configs import common
from dispose_jax import cli, limits, provenance, weights
from dispose_jax.animator import Animator
from dispose_jax.evaluation import measure, report, sequences
from dispose_jax.evaluation.ablation.variants import check_own
from dispose_jax.evaluation.metrics import METRICS
from dispose_jax.evaluation.paper_tables import INFERRED, TABLES, Table
from dispose_jax.media import output
from dispose_jax.models import bundle, networks
from dispose_jax.pose.detector import Recent

TRUTH, PLAN, COSTS = "truth", "plan.json", "costs"
UNSEEN = (2, 5)  # tables of people without a truth
_BASES = {"svd": "MimicMotion", "sd15": "MusePose"}
_ABLATED = {
    "no_motion": "w/o motion field guidance",
    "no_point": "w/o keypoint correspondence",
    "exp1": "Exp1",
    "exp2": "Exp2",
    "no_cmp": "w/o CMP",
}
_NAMED = {"clips": "videos, pose files or reference pictures"}  # keys of a plan, said plainly
_TRAINED = {  # what each base's own training learns
    "svd": ("unet", "pose_encoder"),
    "sd15": ("unet", "motion_modules", "reference", "pose_encoder"),
}

Say = Callable[[str], None]


def row_name(base: str, table: int, variant: str) -> str:
    """What the paper calls a variant of a base in a table."""
    if variant == "base":
        return _BASES[base]
    if variant == "full":
        return "full" if table in (3, 4, 5) else f"{_BASES[base]}+DisPose"
    return _ABLATED[variant]


class TableRun:
    """One table on one data set in one folder.

    config: of configs/, its variant is replaced; given: bundles; ablation: {variant: bundle} of
    those that were trained apart; limit: frames of a clip, 0 for all. Raises ValueError for data
    that lacks sequences, bundles that are none, and for a workdir that other options were used in.
    """

    def __init__(
        self, config, table, data, given, workdir, ablation=None, limit=0, say: Say = print
    ):
        self.config, self.number, self.table = config, table, TABLES[table]
        self.given, self.ablation, self.limit = tuple(given), dict(ablation or {}), limit
        self.workdir, self.say = Path(workdir), say
        self.recent: Recent = {}  # keypoints found, which all rows are made of
        config.sample.stride, config.sample.max_frames = 1, limit
        found = sequences.unseen if table in UNSEEN else sequences.tiktok
        self.sequences = found(Path(data))
        self.variants = [
            variant
            for variant in self.table.variants
            if variant in ("base", "full") or variant in self.ablation
        ]
        for bundled in (*self.given, *self.ablation.values()):
            if bundled != weights.RANDOM:
                bundle.describe(bundled)
        for variant, folder in self.ablation.items():
            own = self._config(variant)
            check_own("--ablation", variant, folder, own, networks.build(own))
        used = self.sequences[:1] if table == 7 else self.sequences
        sequences.check_poses(Path(data), used, self.given)
        self._keep_plan()

    def _keep_plan(self) -> None:
        """Write down what the workdir's clips depend on, or compare with what was written."""
        config = json.loads(self.config.to_json(), parse_constant=str)  # infinity
        config.pop("control")
        plan = {
            "config": config,
            "weights": [provenance.digest(folder) or str(folder) for folder in self.given],
            "ablation": {name: provenance.digest(self.ablation[name]) for name in self.ablation},
            "frames": self.limit,
            "clips": {one.name: one.digests for one in self.sequences},
        }
        self.plan = json.loads(json.dumps(plan))  # as it is read again
        path = output.prepare(self.workdir / PLAN)
        if not path.is_file() or (_read(path) != self.plan and not self._has_begun()):
            output.write_json(path, self.plan)
        self._check_plan()

    def _has_begun(self) -> bool:
        """Whether anything was made here, or is being made, be it for another table."""
        kinds = (TRUTH, COSTS, "base", "full", *_ABLATED)
        return any(any((self.workdir / kind).glob("*")) for kind in kinds)

    def _check_plan(self) -> None:
        """Raise ValueError if the workdir is for clips that depend on something else. To be asked
        before anything is put there, too: until then a run with other options may take it."""
        path = self.workdir / PLAN
        found = _read(path)
        if differing := [key for key in self.plan if found.get(key) != self.plan[key]]:
            named = ", ".join(_NAMED.get(key, key) for key in differing)
            raise ValueError(
                f"{path}: this folder is for clips with other {named}; choose another --workdir"
            )

    def animator(self, variant: str) -> Animator:
        """The model of a row."""
        more = [self.ablation[variant]] if variant in self.ablation else []
        given = (*self.given, *more)
        return Animator(self._config(variant), given, say=self.say, recent=self.recent)

    def _config(self, variant: str):
        """The configuration of a row."""
        own = self.config.copy_and_resolve_references()
        own.control.update(common.control(variant))
        return own

    def folder(self, variant: str, sequence: sequences.Sequence) -> Path:
        """Where a clip's frames lie when they are finished."""
        return self.workdir / variant / sequence.name

    def missing(self) -> list[tuple[str, sequences.Sequence]]:
        """Clips that are still to be made, the truth first."""
        kinds = [*([] if self.number in UNSEEN else [TRUTH]), *self.variants]
        jobs = [(kind, one) for kind in kinds for one in self.sequences]
        return [(kind, one) for kind, one in jobs if not self.folder(kind, one).is_dir()]

    def make(self, shard: tuple[int, int] = (0, 1)) -> None:
        """Make what is missing of a shard's part, clip by clip."""
        index, count = shard
        numbers = {one.name: i for i, one in enumerate(self.sequences)}
        jobs = [job for job in self.missing() if numbers[job[1].name] % count == index]
        animator, loaded = None, None
        for kind, one in jobs:
            if kind == TRUTH:
                target = self.folder(kind, one)
                self._check_plan()
                sequences.write_truth(target, one, self.config.sample, self.limit)
                continue
            if loaded != kind:
                animator, loaded = self.animator(kind), kind
            self.say(f"animating {one.name} with {row_name(self.config.base, self.number, kind)}")
            clip = sequences.prepared(animator, one, self.limit)
            frames = (frame for part in animator(clip) for frame in part)
            self._check_plan()
            sequences.write_frames(self.folder(kind, one), frames)

    def costs(self, variant: str) -> dict[str, float]:
        """Table 7's numbers of a row: counted exactly, and timed on the first sequence.

        The clip is made twice with one animator; the second time is counted, the first one's
        surplus is compilation. Poses and files are not included.
        """
        path = self.workdir / COSTS / f"{variant}.json"
        if path.is_file():
            return _read(path)
        animator = self.animator(variant)
        clip = sequences.prepared(animator, self.sequences[0], self.limit)
        seconds = []
        for again in ("compiling", "timing"):
            self.say(f"{again} {row_name(self.config.base, self.number, variant)}")
            start = time.perf_counter()
            for _ in animator(clip):
                pass
            seconds.append(time.perf_counter() - start)
        found = {
            "parameters": parameters(animator.config, variant) / 2**20,
            "seconds": seconds[1] / clip.num_frames,
            "compilation": max(0.0, seconds[0] - seconds[1]),
            "frames": clip.num_frames,
            "steps": animator.config.sample.steps,
            "size": list(clip.shown),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        }
        self._check_plan()
        output.write_json(output.prepare(path), found)
        return found

    def measured(self, variant: str) -> measure.Results:
        """A row's numbers; metrics whose networks are missing are left out."""
        names = [c.metric for c in self.table.columns if c.metric in METRICS]
        request = measure.Request(
            fake=self.workdir / variant,
            real=None if self.number in UNSEEN else self.workdir / TRUTH,
            weights=tuple(folder for folder in self.given if folder != weights.RANDOM),
            metrics=",".join(names),
            fps={one.name: one.clip.fps for one in self.sequences},
            lenient=True,
        )
        return measure.run(measure.check(request, self.say), self.say)

    def text(self) -> str:
        """The table, the paper's rows and ours, once everything is made."""
        base, ours, remarks = self.config.base, {}, []
        for variant in self.variants:
            name = row_name(base, self.number, variant)
            if self.number == 7:
                found = self.costs(variant)
                ours[name] = {key: f"{found[key]:.2f}" for key in ("parameters", "seconds")}
                remarks.append(
                    f"{name}: {found['frames']} frames of {found['size'][1]} x {found['size'][0]}, "
                    f"{found['steps']} steps on {found['device']}; compilation apart "
                    f"({found['compilation']:.0f} s); poses and files not included."
                )
                continue
            results = self.measured(variant)
            ours[name] = {key: _printed(key, score) for key, score in results.fake.items()}
            ours[name] |= self._vbench(variant)
            for key, score in results.fake.items():
                if score.clips and METRICS[key].kind == "frechet":
                    remarks.append(_trust(name, key, score))
            if results.real:
                real = {key: _printed(key, score) for key, score in results.real.items()}
                ours["true videos"] = real
            remarks += [f"{METRICS[k].title}: {why}." for k, why in results.skipped.items()]
        absent = [v for v in self.table.variants if v not in self.variants]
        remarks += [
            f"{row_name(base, self.number, v)}: not measured, give --ablation {v}=BUNDLE."
            for v in absent
        ]
        return _table(self.number, self.table, ours, list(dict.fromkeys(remarks)))

    def _vbench(self, variant: str) -> dict[str, str]:
        """VBench's own dimensions of a row, from its result file beside the row's folder."""
        path = self.workdir / f"{variant}.vbench.json"
        if not path.is_file():
            return {}
        return {key: f"{value:.2f}" for key, value in report.read_vbench(path).items()}


def parameters(config, variant: str) -> int:
    """Numbers that a row's training learns: of the base its own, of the rest DisPose's."""
    built = networks.build(config)
    names = _TRAINED[config.base] if variant == "base" else common.learnt(config.control)
    leaves = [leaf for name in names for leaf in jax.tree.leaves(built[name].shapes)]
    return sum(prod(leaf.shape) for leaf in leaves)


def _read(path: Path) -> dict:
    """What an earlier run wrote. Raises ValueError for a damaged file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); delete it and run again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is not what an earlier run wrote; delete it and run again")
    return found


def _printed(name: str, score: measure.Score) -> str:
    metric = METRICS[name]
    return f"{score.value * metric.scale:.{metric.digits}f}"


def _trust(row: str, name: str, score: measure.Score) -> str:
    """What a Fréchet number of ours is worth, in a sentence."""
    text = f"{row}, {METRICS[name].title}: {score.clips} clips, {score.windows} windows"
    if score.interval:
        text += f", 95 % over videos {score.interval.low:.2f} to {score.interval.high:.2f}"
    if score.floor is not None:
        text += f", real against real {score.floor:.2f}"
    return f"{text}; {score.caution}." if score.caution else f"{text}."


def _table(number: int, table: Table, ours: dict, remarks: list[str]) -> str:
    """A table in Markdown: the paper's rows, ours {row: {metric: text}} below them, remarks."""
    line = lambda cells: f"| {' | '.join(cells)} |"
    titles = [column.title for column in table.columns]
    lines = [f"Table {number}: {table.about}.", "", INFERRED, ""]
    lines += [line(["", "source", *titles]), line(["---"] * (2 + len(titles)))]
    for row, values in table.rows.items():
        lines.append(line([row, "paper", *(f"{value:g}" for value in values)]))
        if row in ours:
            lines.append(_ours(row, table, ours[row]))
    lines += [_ours(row, table, cells) for row, cells in ours.items() if row not in table.rows]
    lines += ["", line(["column", "ours", "known"]), line(["---"] * 3)]
    for column in table.columns:
        about = METRICS[column.metric].about if column.metric in METRICS else "see known"
        lines.append(line([column.title, about, column.known]))
    return "\n".join([*lines, "", *remarks]) + "\n"


def _ours(row: str, table: Table, cells: dict[str, str]) -> str:
    values = [cells.get(column.metric, "-") for column in table.columns]
    return f"| **{row}** | ours | {' | '.join(values)} |"


def main(config) -> None:
    given = flags.FLAGS
    for flag in ("data", "workdir"):
        if not given[flag].value:
            raise ValueError(f"give --{flag} FOLDER")
    if given.table not in TABLES:
        raise ValueError(f"--table {given.table}: expected one of {', '.join(map(str, TABLES))}")
    if given.frames < 0 or given.frames == 1:  # before the workdir remembers it
        raise ValueError(f"--frames {given.frames}: expected 0 for all, or 2 or more")
    pairs = [text.partition("=") for text in given.ablation]
    wrong = [a for a, _, b in pairs if a not in _ABLATED or not b]
    if wrong:
        raise ValueError(f"--ablation {wrong[0]}: expected VARIANT=BUNDLE of {', '.join(_ABLATED)}")
    shard = cli.parse_shard(given.shard)
    limits.check(config)
    chosen = weights.choose(given.weights, config)
    ablation = {variant: folder for variant, _, folder in pairs}
    run = TableRun(config, given.table, given.data, chosen, given.workdir, ablation, given.frames)
    if given.table != 7:
        run.make(shard)
        if left := run.missing():
            names = ", ".join(f"{kind}/{one.name}" for kind, one in left[:5])
            print(f"{len(left)} clips are other shards' ({names}); the last run measures")
            return
    text = run.text()
    path = output.prepare(run.workdir / f"table{given.table}.md")
    output.write_bytes(path, text.encode())
    print(f"{text}\nwrote {path}")


if __name__ == "__main__":
    flags.DEFINE_string("config", "configs/svd.py", "Configuration file and its argument.")
    flags.DEFINE_integer("table", 1, f"Table of the paper: {', '.join(map(str, TABLES))}.")
    flags.DEFINE_string("data", None, "Folder of TikTok's sequences, or of NAME.png with NAME.mp4.")
    flags.DEFINE_list("weights", None, "Bundle folders, a later one overriding an earlier one.")
    flags.DEFINE_list("ablation", [], "VARIANT=BUNDLE of models trained otherwise.")
    flags.DEFINE_string("workdir", None, "Folder for frames and tables; run again to go on.")
    flags.DEFINE_string("shard", "0/1", cli.SHARD)
    flags.DEFINE_integer("frames", 0, "Frames of each clip, from the first; 0: all.")
    cli.run(main)
