"""What a compiler's dump says of a program: memory, the largest buffers, kernels, traffic.

The texts are XLA's (`--xla_dump_to`): the plan of its memory, which it writes before it generates
code, and the optimised program. Traffic is counted here from the sizes of operands and results as
they lie in memory, of slices only their own; what the chip keeps close to its cores counts nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import NamedTuple

from dispose_jax.ops.blocks import BACKWARD

REPORT, ASSIGNMENT, LIVES, PROGRAM = (
    f"*after_optimizations{end}.txt"
    for end in ("-memory-usage-report", "-buffer-assignment", "-live-range", "")
)
# Mosaic: what Pallas compiles to on a TPU, whose compiler makes kernels of some attentions itself.
KERNELS = {"tpu_custom_call": "Mosaic", "__cudnn$fmha": "cuDNN attention", "__cudnn$conv": "cuDNN"}
COLLECTIVES = "all-reduce all-gather reduce-scatter all-to-all collective-permute".split()
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "token": 0, "c64": 8}
# They move nothing, or it is counted where it starts.
_FREE = "parameter constant bitcast get-tuple-element tuple after-all partition-id".split()
_BLOCKS = re.compile(r"(down_blocks|up_blocks|mid_block|encoder)$")  # which one is no matter


class Buffer(NamedTuple):
    """Intermediate results of one shape that are in memory when it is fullest."""

    size: int  # bytes of one
    shape: str
    count: int
    module: str  # that made one of them


class Plan(NamedTuple):
    """Of one device. Memory in bytes; kernels and collectives in the program's text.

    traffic: bytes by (module, kind of operation).
    """

    total: int
    arguments: int
    buffers: list[Buffer]
    kernels: dict[str, int]
    collectives: dict[str, int]
    traffic: Counter


class Instruction(NamedTuple):
    """A line of a program as the compiler prints it."""

    name: str
    shape: str
    kind: str
    operands: list[str]
    rest: str  # attributes


def is_planned(folder: Path) -> bool:
    """Whether the compiler has written its plan of the memory, after all else that is read here."""
    return any("Total bytes: " in path.read_text(encoding="utf-8") for path in folder.glob(REPORT))


def read(folder: Path) -> Plan:
    """The plan of the one program that a compiler dumped there."""
    text = lambda pattern: next(folder.glob(pattern)).read_text(encoding="utf-8")
    program, assignment = text(PROGRAM), text(ASSIGNMENT)
    computations = parse(program)
    lines = {line.name: line for part in computations.values() for line in part}
    targets = Counter(re.findall(r'custom_call_target="([^"]+)"', program))
    kinds = Counter(line.kind for line in lines.values())
    return Plan(
        total=needed(text(REPORT)),
        arguments=sum(
            int(size)
            for size in re.findall(r"^allocation \d+: size (\d+), parameter", assignment, re.M)
        ),
        buffers=buffers(text(LIVES), assignment, lines),
        kernels={
            name: count
            for part, name in KERNELS.items()
            if (count := sum(n for target, n in targets.items() if target.startswith(part)))
        },
        collectives={
            name: count for name in COLLECTIVES if (count := kinds[name] + kinds[f"{name}-start"])
        },
        traffic=traffic(computations),
    )


def needed(report: str) -> int:
    """Bytes of the device's main memory by a memory usage report."""
    return int(re.search(r"\(color=0\)\nTotal bytes: (\d+)", report)[1])


def buffers(lives: str, assignment: str, lines: dict[str, Instruction]) -> list[Buffer]:
    """What of intermediate results is in main memory at its fullest, the largest first.

    lives, assignment: texts of the dump; lines: the program's instructions by name.
    """
    shapes = dict(re.findall(r"^ value: <\d+ (\S+) .*\): (\w+\[[\d,]*\])", assignment, re.M))
    found: dict[tuple[int, str], list[Instruction]] = {}
    for text in lives.partition("(peak):\n")[2].splitlines():
        value = re.match(r"\s+(\S+)(\{[\d, ]*\}): (\d+) bytes", text)
        if value is None:
            break
        name, index, size = value.groups()
        line = lines.get(name)
        if line is not None and line.kind != "parameter":
            shape = shapes.get(name if index == "{}" else name + index, "")
            found.setdefault((int(size), shape), []).append(line)
    return [
        Buffer(size, shape, len(made), module(made[0].rest))
        for (size, shape), made in sorted(found.items(), key=lambda item: -item[0][0])
    ]


def module(rest: str) -> str:
    """What asked for an instruction, by its attributes: the network, and up to three names within.

    "" for what belongs to no network.
    """
    found = re.search(r'op_name="([^"]*)"', rest)
    names = re.sub(r"\w+\(|\)", "", found[1] if found else "").split("/")[1:-1]
    names = [re.sub(r"_\d+$", "", name) for name in names]
    named = [name for name in names if name.isidentifier() and name not in _PLUMBING]
    named = [name for i, name in enumerate(named) if i == 0 or not _BLOCKS.match(name)]
    return "/".join(list(dict.fromkeys(named))[:4])  # gradients repeat the outermost one


# Names that JAX puts into a path beside those of modules.
_PLUMBING = {"while", "body", "closed_call", "cond", "checkpoint", "rematted_computation", "remat"}
_PLUMBING |= {"shard_map", "branch", "jvp", "transpose", "pjit", BACKWARD}


def parse(program: str) -> dict[str, list[Instruction]]:
    """{computation: its instructions}; the entry's name is ""."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in program.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) ", line)):
            current = computations.setdefault("" if head[1] else head[2], [])
        elif found := re.match(r"\s+(?:ROOT )?%([\w.\-]+) = ", line):
            shape, rest = _split(line[found.end() :])
            kind, _, rest = rest.strip().partition("(")
            operands, rest = _split("(" + rest)
            names = re.findall(r"%([\w.\-]+)", operands)
            names = [operands.strip("()")] if kind == "parameter" else names  # its number
            current.append(Instruction(found[1], shape, kind, names, rest))
    return computations


def _split(text: str) -> tuple[str, str]:
    """A leading parenthesis, or a word, and what follows."""
    if not text.startswith("("):
        word, _, rest = text.partition(" ")
        return word, rest
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def bytes_of(shape: str) -> int:
    """Bytes of an array or tuple in main memory, as XLA writes its shape; tiles are filled up."""
    return sum(_bytes(*part) for part in re.findall(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?", shape))


def _bytes(kind: str, sizes: str, layout: str) -> int:
    """What an array of an element type, sizes and layout takes of the main memory, its tiles
    padded; 0 if it lies in another one."""
    if re.search(r"S\([1-9]", layout):
        return 0
    dims = [int(size) for size in sizes.split(",") if size]
    order, _, tiles = layout.partition(":")
    if dims and (tile := re.match(r"T\(([\d,]+)\)", tiles)):
        minor = [int(axis) for axis in order.split(",")]
        for axis, size in zip(minor, reversed([int(size) for size in tile[1].split(",")])):
            dims[axis] = -(-dims[axis] // size) * size
    bits = re.search(r"\d+", kind)
    return prod(dims) * _BYTES.get(kind, int(bits[0]) // 8 if bits else 0)


def traffic(computations: dict[str, list[Instruction]]) -> Counter:
    """Bytes read and written by (module, kind of operation), loops as often as they turn."""
    shapes = {line.name: line.shape for lines in computations.values() for line in lines}
    counts: Counter = Counter()
    for line, times in _executed(computations, "", 1):
        size = _moved(line, computations, shapes)
        counts[module(line.rest), line.kind.removesuffix("-start")] += times * size
    return counts


def _moved(line: Instruction, computations, shapes: dict[str, str]) -> int:
    """Bytes that an instruction reads and writes."""
    result, operands = bytes_of(line.shape), [bytes_of(shapes[name]) for name in line.operands]
    if line.kind.endswith("-start"):  # its result names the operands too
        return result
    if line.kind == "dynamic-slice":
        return 2 * result
    if line.kind == "dynamic-update-slice":
        return 2 * operands[1]
    if called := re.search(r"calls=%([\w.\-]+)", line.rest):
        return _moved_within(computations[called[1]], result, operands)
    return result + sum(operands)


def _moved_within(body: list[Instruction], result: int, operands: list[int]) -> int:
    """The same of a fusion, for its operands and result as a whole: of what it takes a slice of, or
    writes over in part, only that."""
    sizes = {line.name: bytes_of(line.shape) for line in body}
    same: dict[str, str] = {}  # bitcasts
    for line in body:
        if line.kind == "bitcast":
            same[line.name] = same.get(line.operands[0], line.operands[0])
    users: dict[str, list[Instruction]] = {}
    for line in body:
        for name in line.operands if line.kind not in ("bitcast", "parameter") else ():
            users.setdefault(same.get(name, name), []).append(line)
    for line in body:
        if line.kind != "parameter":
            continue
        number, read = int(line.operands[0]), 0
        for user in users.get(line.name, []):
            first = same.get(user.operands[0], user.operands[0])
            if first != line.name or not user.kind.startswith("dynamic-"):
                break
            read += sizes[user.name] if user.kind == "dynamic-slice" else 0
        else:
            operands[number] = min(operands[number], read)
    named = {line.name: line for line in body}
    roots = body[-1].operands if body[-1].kind == "tuple" else [body[-1].name]
    for root in (named[same.get(name, name)] for name in roots):
        if root.kind == "dynamic-update-slice":
            result -= min(result, sizes[root.name]) - sizes[root.operands[1]]
    return result + sum(operands)


def _executed(computations, name: str, times: int) -> Iterator[tuple[Instruction, int]]:
    """The instructions of a computation that move something, and how often they do."""
    for line in computations[name]:
        if line.kind in ("while", "call", "conditional"):
            turns = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.rest)
            for body in re.findall(r"(?:body|to_apply)=%([\w.\-]+)", line.rest):
                yield from _executed(computations, body, times * int(turns[1] if turns else 1))
        elif line.kind not in _FREE and not line.kind.endswith("-done"):
            yield line, times
