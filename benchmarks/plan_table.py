"""The table of docs/performance.md from what `benchmarks.compiled --json` printed, a plan a line.

python -m benchmarks.compiled --chip v5e --program step --plan_only --json >> docs/compiled.jsonl
python -m benchmarks.plan_table docs/compiled.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import programs

HEADER = (
    "program",
    "chip",
    "GiB",
    "of it arguments",
    "of",
    "kernels",
    "TFLOP",
    "GB moved",
    "s at peak",
    "s at full bandwidth",
)


def read(path: Path) -> list[dict]:
    """Plans by base, program and chip, in the order of the programs."""
    plans = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    order = lambda plan: (plan["base"] != "svd", programs.NAMES.index(plan["program"]))
    return sorted(plans, key=order)


def rows(plans: Iterable[dict]) -> Iterator[tuple[str, ...]]:
    """The cells of the table, a row for each plan."""
    for plan in plans:
        height, width = plan["size"]
        changed = "".join(f", {change}" for change in plan["set"])
        kernels = [f"{count} {name}" for name, count in plan.get("kernels", {}).items()]
        gib = lambda count: f"{count / 2**30:.2f}"
        needed = gib(plan["needed"])
        yield (
            f"{plan['base']} {plan['program']}, {height} x {width}{changed}",
            (f"{plan['devices']} x " if plan["devices"] > 1 else "") + plan["chip"],
            needed if plan["fits"] else f"**{needed}: too much**",
            gib(plan["arguments"]) if "arguments" in plan else "",
            gib(plan["room"]),
            ", ".join(kernels),
            f"{plan['useful_flops'] / 1e12:.3g}",
            f"{plan['counted'] / 1e9:.0f}" if "counted" in plan else "",
            f"{plan['arithmetic_s']:.2g}",
            f"{plan['memory_s']:.2g}" if "counted" in plan else "",
        )


def markdown(plans: Iterable[dict]) -> str:
    """The table as docs have it."""
    lines = [HEADER, ("---",) * len(HEADER), *rows(plans)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plans", type=Path, help="what benchmarks.compiled --json printed")
    print(markdown(read(parser.parse_args().plans)))
