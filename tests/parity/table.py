"""Write docs/parity.md from the differences that the parity tests measured.

DISPOSE_PARITY_TABLE=parity.tsv python -m pytest tests/parity -m "full or not full"
python -m tests.parity.table parity.tsv
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

from tests.parity.cases import GOLDENS

ROOT = Path(__file__).parents[2]

HEAD = """# Parity with the original

Each case is an output of the original PyTorch code (official DisPose, MimicMotion, MusePose, CMP,
diffusers 0.27) in float32 on a CPU, with weights generated deterministically from tensor names. The
same weights, brought into Flax by the converters, must give the same numbers. Difference: the
largest over all outputs of the case, of max |ours - original| in units of the original's standard
deviation (for tables and pictures: as the case says), and beside it the tolerance of that output.

| case | what | outputs | largest difference | its tolerance |
|---|---|---|---|---|
"""


def main(table: Path) -> None:
    rows = defaultdict(dict)
    for line in table.read_text().splitlines():
        case, output, difference, tolerance = line.split("\t")
        rows[case][output] = float(difference), float(tolerance)
    text = HEAD
    for case, outputs in sorted(rows.items()):
        about = json.loads((GOLDENS / f"{case}.json").read_text())["about"].replace("|", "\\|")
        # The output closest to its bound; a bound of zero is met exactly.
        worst = max(outputs.values(), key=lambda pair: pair[0] / pair[1] if pair[1] else 0)
        text += f"| {case} | {about} | {len(outputs)} | {worst[0]:.1e} | {worst[1]:.1e} |\n"
    (ROOT / "docs" / "parity.md").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
