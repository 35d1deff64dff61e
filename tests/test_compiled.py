"""Compiling for chips that are not there: the table of chips, what is read from a compiler's texts,
the report; and, where the compilers are installed, the small step itself."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path

import pytest

from benchmarks import chips, compiled, plan_table, plans

ROOT = Path(__file__).parents[1]

# As XLA writes an optimised program, made up: a loop of three turns, tiles, another memory.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%fused (p: bf16[2,12,100]) -> bf16[2,12,100] {
  %p = bf16[2,12,100]{2,1,0} parameter(0)
  ROOT %twice = bf16[2,12,100]{2,1,0} add(%p, %p)
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %y = f32[4,8]{1,0} custom-call(%x, %x), custom_call_target="__cudnn$fmhaSoftmax", \
metadata={op_name="jit(step)/UNet/down_blocks_0/attentions_1/attn1/dot_product_attention"}
  ROOT %out = (s32[], f32[4,8]{1,0}) tuple(%i, %y)
}

ENTRY %main.1 (a: bf16[2,12,100], b: f32[4,8]) -> f32[4,8] {
  %a = bf16[2,12,100]{2,1,0:T(8,128)(2,1)} parameter(0)
  %b = f32[4,8]{1,0} parameter(1)
  %near = bf16[2,12,100]{2,1,0:T(8,128)(2,1)S(1)} fusion(%a), kind=kLoop, calls=%fused, \
metadata={op_name="jit(step)/transpose(jvp(UNet))/resnets_0/norm1/mul"}
  %reduced = f32[4,8]{1,0} all-reduce(%b), replica_groups={{0,1}}, to_apply=%fused
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,8]{1,0}) tuple(%zero, %reduced)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%other, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %last = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""
REPORT = """\
Memory Space: default (color=0)
Total bytes: 11000 (10.7KiB)
Memory Space: vmem (color=1)
Total bytes: 99 (99B)
"""
ASSIGNMENT = """\
BufferAssignment:
allocation 0: size 8192, parameter 0, shape |bf16[2,12,100]| at ShapeIndex {}:
 value: <1 a @0> (size=8192,offset=0): bf16[2,12,100]{2,1,0:T(8,128)(2,1)}
allocation 1: size 128, parameter 1, shape |f32[4,8]| at ShapeIndex {}:
 value: <2 b @0> (size=128,offset=0): f32[4,8]{1,0}
allocation 2: size 384, preallocated-temp:
 value: <3 y @0> (size=128,offset=0): f32[4,8]{1,0}
 value: <4 reduced @0> (size=128,offset=128): f32[4,8]{1,0}
 value: <5 loop{1} @0> (size=128,offset=256): f32[4,8]{1,0}
"""
LIVES = """\
HloLiveRange (max 9):
  Live ranges at 4 (peak):
    a{}: 8192 bytes (cumulative: 8192 bytes)
    y{}: 128 bytes (cumulative: 8320 bytes)
    loop{1}: 128 bytes (cumulative: 8448 bytes)
    zero{}: 4 bytes (cumulative: 8452 bytes)
  Stack trace breakdown for peak usage: 8452 bytes
    reduced{}: 128 bytes (cumulative: 128 bytes)
"""


@pytest.fixture
def dump(tmp_path):
    """A folder as a compiler leaves it."""
    stem = "module_0001.jit_step.after_optimizations"
    for end, text in (("", PROGRAM), ("-memory-usage-report", REPORT)):
        (tmp_path / f"{stem}{end}.txt").write_text(text)
    for end, text in (("-buffer-assignment", ASSIGNMENT), ("-live-range", LIVES)):
        (tmp_path / f"{stem}{end}.txt").write_text(text)
    return tmp_path


def test_a_dump_is_read_as_what_the_program_needs(dump):
    plan = plans.read(dump)
    assert plan.total == 11000
    assert plan.arguments == 8192 + 128
    assert plan.kernels == {"cuDNN attention": 1}
    assert plan.collectives == {"all-reduce": 1}
    assert plan.buffers == [
        plans.Buffer(128, "f32[4,8]", 2, "UNet/attentions/attn1"),
        plans.Buffer(4, "", 1, ""),
    ]
    # 12 x 100 fills two tiles of 8 x 128; what is near the cores is free; loops turn.
    assert plan.traffic == {
        ("UNet/resnets/norm1", "fusion"): 2 * 16 * 128 * 2,
        ("", "all-reduce"): 2 * 4 * 8 * 4,
        ("UNet/attentions/attn1", "custom-call"): 3 * 3 * 4 * 8 * 4,
    }


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (
            "jit(_predict)/UNet/encoder/down_blocks_0/attentions_1/ff/net_0/add",
            "UNet/attentions/ff/net",
        ),
        (
            "jit(step)/transpose(jvp(UNet))/UNet/up_blocks_3/checkpoint/resnets_0/mul",
            "UNet/resnets",
        ),
        ("jit(step)/encoder/mid_block/attentions_0/while/body/dot_general", "encoder/attentions"),
        ("jit(step)/reduce_sum", ""),
    ],
)
def test_who_asked_for_an_instruction_is_told_by_names_of_modules(path, named):
    assert plans.module(f', metadata={{op_name="{path}" stack_frame_id=3}}') == named


def test_a_plan_is_there_once_the_memory_report_is(dump):
    assert plans.is_planned(dump)
    next(dump.glob("*memory-usage-report.txt")).unlink()
    assert not plans.is_planned(dump)


def test_slices_of_large_arrays_count_as_slices():
    program = """\
%fused (p: f32[64,8], q: f32[8,64], i: s32[]) -> f32[64,8] {
  %p = f32[64,8]{1,0} parameter(1)
  %q = f32[8,64]{1,0} parameter(0)
  %i = s32[] parameter(2)
  %flat = f32[64,8]{1,0} bitcast(%q)
  %piece = f32[2,8]{1,0} dynamic-slice(%flat, %i, %i), dynamic_slice_sizes={2,8}
  %twice = f32[2,8]{1,0} add(%piece, %piece)
  ROOT %written = f32[64,8]{1,0} dynamic-update-slice(%p, %twice, %i, %i)
}

ENTRY %main (q: f32[8,64], p: f32[64,8], i: s32[]) -> f32[64,8] {
  %q = f32[8,64]{1,0} parameter(0)
  %p.1 = f32[64,8]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  ROOT %fusion = f32[64,8]{1,0} fusion(%q, %p.1, %i.1), kind=kLoop, calls=%fused
}
"""
    piece, number = 2 * 8 * 4, 4
    assert plans.traffic(plans.parse(program)) == {("", "fusion"): piece + piece + number}


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[]", 2),
        ("pred[3]{0}", 3),
        ("(f32[2,3]{1,0}, u8[5]{0})", 29),
        ("f32[1,8,5,64]{3,2,1,0:T(8,128)}", 8 * 8 * 128 * 4),
        ("f32[1,8,5,64]{1,3,2,0:T(8,128)}", 5 * 64 * 128 * 4),  # the second axis in the lanes
        ("bf16[300]{0:T(256)(128)(2,1)}", 512 * 2),
        ("f8e4m3fn[10]{0}", 10),
        ("s32[7]{0:S(2)}", 0),
    ],
)
def test_bytes_of_a_shape_fill_its_tiles(shape, size):
    assert plans.bytes_of(shape) == size


def test_the_table_of_chips_is_consistent():
    for name, chip in chips.CHIPS.items():
        assert chips.of_kind(chip.kinds[0]) is chip, name
        assert (chip.gpu is None) == bool(chip.topologies)
        for count, shape in chip.topologies.items():
            assert prod(map(int, shape.split("x"))) == count
    assert chips.of_kind("NVIDIA H100 80GB HBM3") is chips.CHIPS["h100"]
    assert chips.of_kind("TPU v5 lite") is chips.CHIPS["v5e"]
    assert chips.of_kind("TPU v6 lite") is chips.CHIPS["v6e"]
    assert chips.of_kind("cpu") is None


def test_a_gpu_is_described_as_its_compiler_wants_it():
    text = chips.target(chips.CHIPS["h100"])
    values = dict(re.findall(r"(\w+): (\S+)", text))
    assert values["shared_memory_per_block_optin"] == str(227 * 1024)
    assert values["memory_bandwidth"] == "3350000000000"
    assert "major: 9 minor: 0 }" in text and text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--chip", "v9"], "--chip is 'v9': expected one of v4, v5e"),
        (["--chip", "v5e", "--devices", "3"], "--devices is 3: a slice of v5e has one of 1, 4, 8"),
        (["--chip", "v5e"], 'libtpu, is not installed; pip install -e ".[aot-tpu]"'),
        (["--chip", "l4"], 'jax_cuda12_plugin, is not installed; pip install -e ".[aot-gpu]"'),
        (["--chip", "v5e", "--set", "sample.windw=3"], "sample.windw"),
        (["--chip", "v5e", "--size", "huge"], "huge"),
    ],
)
def test_what_cannot_be_compiled_is_said_in_one_sentence(monkeypatch, arguments, wanted):
    monkeypatch.setattr(chips, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["compiled", "--program", "step", *arguments])
    monkeypatch.setattr(compiled.jax.config, "update", lambda *setting: None)
    with pytest.raises(SystemExit) as ended:
        compiled.main()
    assert wanted in ended.value.code and "\n" not in ended.value.code


def found(**changes):
    values = {
        "chip": "v5e",
        "devices": 4,
        "program": "step",
        "dtype": "bfloat16",
        "room": 2**34,
        "needed": 2**33,
        "arguments": 2**32,
        "buffers": [{"size": 2**20, "shape": "f32[2]", "count": 3, "module": "UNet/norm"}],
        "useful_flops": 197e12,
        "executed_flops": 197e12,
        "arithmetic_s": 1.0,
        "memory_s": 2.0,
        "moved": None,
        "counted": 1638e9,
        "kernels": {"Mosaic": 7},
        "collectives": {},
        "by_module": {"UNet/norm": 1600e9, "": 38e9},
        "trace_s": 1.0,
        "lower_s": 2.0,
        "compile_s": None,
        "plan_s": 3.0,
        "versions": {"jax": "0.10.2"},
    }
    return values | changes


def test_the_report_says_whether_it_fits_and_by_how_much():
    text = "\n".join(compiled.lines(found(), "module"))
    assert "8.00 GiB  of 16.00 GiB: fits, 8.00 GiB left" in text
    assert "3 x f32[2] UNet/norm" in text
    assert "197.00 TFLOP  1.000 s at peak" in text
    assert "1638.00 GB  of 819 GB/s: 2.000 s" in text
    assert "Mosaic 7" in text and "collectives   none" in text and "plan 3.0 s" in text
    assert re.search(r"outside networks +38 ", text)
    text = "\n".join(compiled.lines(found(needed=2**34 + 2**30, moved=819e9), None))
    assert "does not fit: 1.00 GiB more" in text and "moved, by the compiler" in text


def test_a_program_that_was_refused_has_no_plan_but_its_need():
    refused = found(needed=2**35)
    for name in ("arguments", "buffers", "counted", "moved", "kernels", "collectives"):
        del refused[name]
    assert "does not fit: 16.00 GiB more" in "\n".join(compiled.lines(refused, "module"))
    message = "RESOURCE_EXHAUSTED: Used 23.38G of 15.75G hbm. Exceeded hbm capacity by 7.63G."
    assert compiled._REFUSED.search(message).group(1, 2) == ("23.38", "G")


def test_the_table_in_the_docs_is_made_of_the_plans_beside_it():
    text = (ROOT / "docs/performance.md").read_text()
    shown = re.search(r"<!-- plans -->\n(.*)\n<!-- end of plans -->", text, re.DOTALL)[1]
    found = plan_table.read(ROOT / "docs/compiled.jsonl")
    assert shown == plan_table.markdown(found)
    assert {plan["base"] for plan in found} == {"svd", "sd15"}


# What the small step needs, by its compilers (libtpu 0.0.42, jax-cuda12-plugin 0.10.2), in MiB.
PLANNED = {("v5e", 1): 46.2, ("v5e", 4): 50.8, ("h100", 1): 36.9}


@pytest.mark.full
@pytest.mark.parametrize(("chip", "devices"), PLANNED)
def test_the_small_step_compiles_for_a_chip_that_is_not_there(chip, devices):
    compiler = "jax_cuda12_plugin" if chips.CHIPS[chip].gpu else "libtpu"
    if find_spec(compiler) is None:
        pytest.skip(f"{compiler} is not installed, see the extras aot-tpu and aot-gpu")
    command = [sys.executable, "-m", "benchmarks.compiled", "--chip", chip, "--program", "step"]
    size = ["--devices", str(devices), "--size", "tiny", "--height", "192", "--width", "192"]
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ran = subprocess.run(
        [*command, *size, "--json"], cwd=ROOT, env=clean, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    plan = json.loads(ran.stdout)
    assert plan["fits"] and plan["compile_s"] > 0
    assert plan["needed"] / 2**20 == pytest.approx(PLANNED[chip, devices], rel=0.15)
    assert plan["kernels"]["cuDNN attention" if chip == "h100" else "Mosaic"] == 4
    assert bool(plan["collectives"]) == (devices > 1)  # predictions come together
    # All of the small step lies in a TPU's fast memory, whose traffic only its compiler counts.
    assert plan["counted"] > 0 and (chip == "h100" or plan["moved"] > plan["counted"])
