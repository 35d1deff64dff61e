"""Counting what a traced program needs: arithmetic and bytes, nothing being run or compiled.

FLOPs are those of convolutions and matrix products only: a multiplication and an addition are two,
padding counts, and so does every turn of a loop. (XLA's own cost analysis counts a loop's body
once, which hides most of attention.) How such counts are written down is here too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Var, jaxprs_in_params

# JAX's name for the part of a gradient that computes a forward pass again (jax.checkpoint), and the
# names of one within a gradient by blocks (BACKWARD of ops/blocks.py).
_REMAT = "rematted_computation"
_AGAIN = re.compile(rf"{_REMAT}|gradient_by_blocks\)*/(.*/)?jvp\(")
# Backward kernels of attention keep no scores: of so many products so many only make them again.
_KERNELS = {"flash_mha_bwd_dkv": (4, 1), "flash_mha_bwd_dq": (3, 2)}
_CUDNN_BACKWARD = (5, 1)
# Results that are their first argument's bytes: under another shape, or written over in part.
_VIEWS = ("reshape", "squeeze", "expand_dims", "copy", "dynamic_update_slice")


class Work(NamedTuple):
    """FLOPs of a program, and those among them that repeat what was computed but not kept."""

    executed: int
    again: int

    @property
    def useful(self) -> int:
        return self.executed - self.again


def flops_by_module(jaxpr: Jaxpr) -> Counter[str]:
    """FLOPs by the outermost module that asks for them ("" outside any), in order of appearance."""
    return Counter({k: w.executed for k, w in work_by(jaxpr, module_of).items()})


def work(jaxpr: Jaxpr) -> Work:
    """All the work of a program."""
    return work_by(jaxpr, lambda stack: "").get("", Work(0, 0))


def work_by(jaxpr: Jaxpr, group: Callable[[str], object]) -> dict[object, Work]:
    """Work by group(name stack), in order of appearance.

    A name stack is as JAX writes it, such as "transpose(jvp(UNet))/mid_block/resnets_0".
    """
    counts: dict[object, Work] = {}
    for eqn in jaxpr.eqns:
        for stack, (executed, again) in _eqn_work(eqn, "").items():
            before = counts.get(group(stack), Work(0, 0))
            counts[group(stack)] = Work(before.executed + executed, before.again + again)
    return counts


def module_of(stack: str) -> str:
    """The outermost module of a name stack, whatever transformations it passed."""
    names = re.sub(r"\w+\(|\)", "", stack).split("/")
    return next((name.split(".")[0] for name in names if name not in ("", _REMAT)), "")


def _eqn_work(eqn: JaxprEqn, outer: str) -> dict[str, tuple[int, int]]:
    """(executed, again) of an equation by name stack, outer being that of the equation around."""
    stack = "/".join(filter(None, (outer, str(eqn.source_info.name_stack))))
    name = eqn.primitive.name
    shape = lambda i: eqn.invars[i].aval.shape
    own, repeated = 0, (1, int(bool(_AGAIN.search(stack))))  # the share that is computed again
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        own = 2 * eqn.outvars[0].aval.size * prod(shape(0)[axis] for axis in contracted)
    elif name == "conv_general_dilated":
        outputs = shape(1)[eqn.params["dimension_numbers"].rhs_spec[0]]
        own = 2 * eqn.outvars[0].aval.size * prod(shape(1)) // outputs
    elif name == "dot_product_attention_fwd_wrapper":  # cuDNN: q, k are (b, n, heads, d)
        own = 4 * prod(shape(0)) * shape(1)[1]
    elif name == "dot_product_attention_bwd_wrapper":
        own = 2 * _CUDNN_BACKWARD[0] * prod(shape(0)) * shape(1)[1]
        repeated = _CUDNN_BACKWARD
    if own:
        return {stack: (own, own * repeated[1] // repeated[0])}
    bodies = [_body_work(body, stack) for body in jaxprs_in_params(eqn.params)]
    if name == "cond":
        bodies = [max(bodies, key=lambda body: sum(executed for executed, _ in body.values()))]
    times = eqn.params["length"] if name == "scan" else 1
    if name == "shard_map":  # its body is the work of one device of the mesh
        times = eqn.params["mesh"].size
    if name == "pallas_call":
        times = prod(eqn.params["grid_mapping"].grid)
        kernel = stack.rpartition("/")[2].split("_block")[0]
        products, repeats = _KERNELS.get(kernel, (1, 0))
        again = lambda n, m: max(m, n * repeats // products)
        bodies = [{k: (n, again(n, m)) for k, (n, m) in body.items()} for body in bodies]
    total: dict[str, tuple[int, int]] = {}
    for body in bodies:
        _add(total, {k: (times * n, times * m) for k, (n, m) in body.items()})
    return total


def _body_work(jaxpr: Jaxpr, outer: str) -> dict[str, tuple[int, int]]:
    total: dict[str, tuple[int, int]] = {}
    for eqn in jaxpr.eqns:
        _add(total, _eqn_work(eqn, outer))
    return total


def _add(total: dict[str, tuple[int, int]], more: dict[str, tuple[int, int]]) -> None:
    for stack, (executed, again) in more.items():
        before = total.get(stack, (0, 0))
        total[stack] = before[0] + executed, before[1] + again


def live_bytes(jaxpr: Jaxpr, results: Sequence | None = None) -> int:
    """Most bytes of intermediate results alive at once, running the equations in their order.

    What a compiler needs differs: it fuses and reorders, and keeps copies and work space. results:
    the variables that are to be left at the end, in place of all those that the program returns.
    """
    stored = views(jaxpr)
    results = jaxpr.outvars if results is None else results
    used = [(i, v) for i, e in enumerate(jaxpr.eqns) for v in e.invars]
    used += [(len(jaxpr.eqns), v) for v in results]
    last = {stored.get(v, v): i for i, v in used if isinstance(v, Var)}
    for argument in (*jaxpr.invars, *jaxpr.constvars):
        last.pop(argument, None)  # not ours to free
    dying: dict[int, list] = {}
    for variable, i in last.items():
        dying.setdefault(i, []).append(variable)
    total = lambda variables: sum(size(v.aval) for v in variables)
    now = peak = 0
    for i, eqn in enumerate(jaxpr.eqns):
        made = [v for v in eqn.outvars if v not in stored]
        inside = max((live_bytes(body) for body in jaxprs_in_params(eqn.params)), default=0)
        peak = max(peak, now + max(inside, total(made)))
        now += total(v for v in made if v in last) - total(dying.get(i, ()))
    return peak


def views(jaxpr: Jaxpr) -> dict[Var, Var]:
    """Variables that are another one's bytes: {variable: that other one}."""
    stored: dict[Var, Var] = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _VIEWS and isinstance(eqn.invars[0], Var):
            stored[eqn.outvars[0]] = stored.get(eqn.invars[0], eqn.invars[0])
    return stored


def size(tree) -> int:
    """Bytes of a tree of shapes; random keys and the like count nothing."""
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "size")
    )


def line(name: str, value: str, note: str = "") -> str:
    """A line of a report."""
    return f"  {name:<30}{value:>12}  {note}".rstrip()


def in_bytes(count: float) -> str:
    """A number of bytes as people read it."""
    return _scaled(count, {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10})


def in_flops(count: float) -> str:
    """A number of operations as people read it."""
    return _scaled(count, {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6})


def _scaled(count: float, units: dict[str, float]) -> str:
    """A count in the largest unit that it reaches, else in the smallest."""
    unit = next((name for name, scale in units.items() if count >= scale), list(units)[-1])
    return f"{count / units[unit]:.2f} {unit}"
