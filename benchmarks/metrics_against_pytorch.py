"""I3D and LPIPS here and as PyTorch modules, same weights, one CPU thread, in one run.

  python -m benchmarks.metrics_against_pytorch --cores 1

Needs the `parity` extra. Forwards are timed in alternation by CPU time; below 1 ours is faster.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks import measure


def i3d(repeats: int) -> dict[str, float]:
    """Ratios and the largest difference for two windows of 16 frames of 224 x 224."""
    import torch

    from converters import mapping
    from dispose_jax.models import evaluation_networks
    from dispose_jax.networks.evaluation.i3d import _MIXED, _POOL_BEFORE

    shapes = evaluation_networks.build("i3d").shapes
    params = _positive(measure.random_tree(shapes))
    tensors = {k: torch.tensor(v) for k, v in _torch_named(mapping.derive(shapes), params).items()}
    functional = torch.nn.functional

    def pad(x, kernel, stride):
        sides = []
        for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1]):
            total = max(k - (size % s or s), 0)
            sides += [total // 2, total - total // 2]
        return functional.pad(x, sides) if any(sides) else x

    def unit(x, name, kernel=1, stride=1):
        x = pad(x, (kernel,) * 3, (stride,) * 3)
        x = functional.conv3d(x, tensors[f"{name}.conv3d.weight"], stride=stride)
        norm = [tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var")]
        affine = [tensors[f"{name}.bn.{part}"] for part in ("weight", "bias")]
        return functional.relu(functional.batch_norm(x, *norm, *affine, eps=1e-3))

    def pool(x, kernel, stride):
        return functional.max_pool3d(pad(x, kernel, stride), kernel, stride)

    def theirs(x):
        x = pool(unit(x, "Conv3d_1a_7x7", 7, 2), *_POOL_BEFORE["Conv3d_2b_1x1"])
        x = unit(unit(x, "Conv3d_2b_1x1"), "Conv3d_2c_3x3", 3)
        for name in _MIXED:
            if name in _POOL_BEFORE:
                x = pool(x, *_POOL_BEFORE[name])
            branches = [
                unit(x, f"{name}.b0"),
                unit(unit(x, f"{name}.b1a"), f"{name}.b1b", 3),
                unit(unit(x, f"{name}.b2a"), f"{name}.b2b", 3),
                unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b"),
            ]
            x = torch.cat(branches, 1)
        x = functional.avg_pool3d(x, (1, 7, 7), 1)
        logits = (tensors["logits.conv3d.weight"], tensors["logits.conv3d.bias"])
        return functional.conv3d(x, *logits).mean(2)[..., 0, 0]

    module = evaluation_networks.build("i3d").module
    clips = np.random.default_rng(0).uniform(-1, 1, (2, 16, 224, 224, 3)).astype(np.float32)
    ours = lambda params, x: module.apply({"params": params}, x)
    return _compare(ours, params, (clips,), theirs, repeats)


def lpips(kind: str, repeats: int) -> dict[str, float]:
    """The same for a pair of pictures of 576 x 320 under one of LPIPS's trunks."""
    import torch

    from converters import mapping, rules
    from dispose_jax.models import evaluation_networks
    from dispose_jax.networks.evaluation import lpips as ours_of

    names = {"alex": "alexnet", "vgg": "vgg16"}[kind], f"lpips_{kind}"
    spelt = rules.PLAIN, rules.LPIPS_HEADS
    params, tensors = {}, {}
    for name, spelling in zip(names, spelt):
        shapes = evaluation_networks.build(name).shapes
        params[name] = measure.random_tree(shapes)
        named = _torch_named(mapping.derive(shapes, *spelling), params[name])
        tensors |= {key: torch.tensor(value) for key, value in named.items()}
    functional = torch.nn.functional

    def taps(x):
        found = []
        for layer in ours_of.TRUNKS[kind]:
            if layer.pool_before:
                x = functional.max_pool2d(x, layer.pool_before, 2)
            weights = (tensors[f"features.{layer.index}.{end}"] for end in ("weight", "bias"))
            x = functional.conv2d(x, *weights, stride=layer.stride, padding=layer.padding)
            x = functional.relu(x)
            if layer.is_tap:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def theirs(one, other):
        shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
        pairs = zip(taps((one - shift) / scale), taps((other - shift) / scale))
        heads = [tensors[f"lin{i}.model.1.weight"] for i in range(5)]
        differences = (functional.conv2d((a - b).square(), h) for (a, b), h in zip(pairs, heads))
        return sum(d.mean((1, 2, 3)) for d in differences)

    def ours(params, one, other):
        maps = [
            ours_of.Trunk(kind).apply({"params": params[names[0]]}, ours_of.scaled(127.5 * (x + 1)))
            for x in (one, other)
        ]
        return ours_of.Heads().apply({"params": params[names[1]]}, *maps).sum(0)

    rng = np.random.default_rng(0)
    pair = [rng.uniform(-1, 1, (1, 576, 320, 3)).astype(np.float32) for _ in range(2)]
    return _compare(ours, params, pair, theirs, repeats)


def _compare(ours, params, inputs, theirs, repeats: int) -> dict[str, float]:
    """Seconds of both, their ratio, and the largest difference in deviations."""
    import jax
    import torch

    program = jax.jit(ours).lower(params, *inputs).compile()
    held = jax.device_put(inputs)
    tensors = [torch.from_numpy(np.moveaxis(x, -1, 1).copy()) for x in inputs]

    def forward():
        with torch.inference_mode():
            return theirs(*tensors).numpy()

    calls = {"ours": lambda: program(params, *held), "torch": forward}
    a, b = np.asarray(calls["ours"]()), forward()
    taken = measure.alternate(calls, repeats)
    scale = max(float(np.abs(b).max()), 1e-12)
    return {
        "ours_cpu_s": taken["ours"].cpu,
        "torch_cpu_s": taken["torch"].cpu,
        "ours / torch": taken["ours"].cpu / taken["torch"].cpu,
        "difference": float(np.abs(a - b).max()) / scale,
    }


def _torch_named(entries, params) -> dict[str, np.ndarray]:
    from converters import mapping

    named = mapping.to_torch(entries, params)
    return {key: np.ascontiguousarray(value) for key, value in named.items()}


def _positive(params):
    """Variances of norms must not be negative."""
    import jax

    last = lambda path: path[-1].key
    mend = lambda path, x: abs(x) + 0.5 if last(path) == "var" else x
    return jax.tree_util.tree_map_with_path(mend, params)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metrics_against_pytorch", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    measure.use_cores(options.cores)
    import torch

    torch.set_num_threads(options.cores)
    print(f"{measure.device()}; median of {options.repeats}, CPU time")
    figures = {"I3D, 2 windows": i3d(options.repeats)}
    for kind in ("alex", "vgg"):
        figures[f"LPIPS {kind}, one pair"] = lpips(kind, options.repeats)
    header = ("network", *figures["I3D, 2 windows"])
    print(measure.table([(name, *row.values()) for name, row in figures.items()], header))


if __name__ == "__main__":
    main()
