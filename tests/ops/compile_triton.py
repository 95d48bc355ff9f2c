"""Compiles the Triton kernels for NVIDIA GPUs on any machine, as stages 1 and 4 of the network launch them.

Run by test_triton.py in a process of its own, with a cache of its own; ``all`` takes all four stages. Prints "ok" for
each kernel; fails where a kernel does not compile, or spills much more of its registers than it should. ``counts``
prints instead, as JSON, what a step of the sweeps takes on compute capability 9.0.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from slicemamba.ops import _triton_gating as gated_kernels
from slicemamba.ops import triton as backend
from slicemamba.ops import triton_gating
from slicemamba.ops._triton_layout import CHUNK, TILE

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
HALF = ("x", "grad_y", "base", "out", "y", "z", "grad_out", "grad_z")
UNALIGNED = {"forward": ("a", "dt_weight", "checkpoints")}  # their alignment is left unknown
MOST_SPILLED_BYTES = 64
STAGES = ((192, 8, False, 90), (384, 16, False, 90), (768, 32, True, 80), (1536, 64, True, 80))
WARP = {"num_warps": 1, "enable_fp_fusion": True}


def compile_kernel(name, half, capability, options, **constants):
    gated = {"gated norm forward": gated_kernels.forward_kernel, "gated norm backward": gated_kernels.backward_kernel}
    kernel = gated[name] if name in gated else backend._kernels()[name]
    signature, aligned = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "eps":
            signature[argument] = "fp32"
        elif argument in ("length", "segment_size", "size", "num_rows", "z_row"):
            signature[argument] = "i32"
        else:
            is_half = half and argument in HALF
            signature[argument] = "*i64" if argument == "geometry" else "*bf16" if is_half else "*fp32"
            if argument not in UNALIGNED.get(name, ()):
                aligned[(index,)] = [["tt.divisibility", 16]]
    values = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def cuobjdump(compiled, option):
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True)
    return report.stdout + report.stderr


def resource(compiled, name):
    return int(re.search(rf"{name}:(\d+)", cuobjdump(compiled, "-res-usage"))[1])


def innermost_loops(compiled):
    """The opcodes of each loop that holds no other, in the order of the code."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)(.*);", cuobjdump(compiled, "-sass"))
    code = [(int(address, 16), opcode, rest) for address, opcode, rest in lines]
    jumps = [(int(re.search(r"0x([0-9a-f]+)", rest)[1], 16), at) for at, opcode, rest in code if opcode == "BRA"]
    loops = [(target, at) for target, at in jumps if target < at]
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [
        [opcode for at, opcode, _ in code if begin <= at <= end and opcode != "NOP"] for begin, end in sorted(inner)
    ]


def counts():
    """What a step of 32 channels and 16 states issues, in all loops that take 16 exponentials a step; and registers."""
    channels, rank, half, capability = STAGES[0]
    sizes = {"DM": channels, "RP": rank, "NP": 16, "BD": TILE, "CHUNK": CHUNK}
    forward = {"AHEAD": backend.ahead(rank), "SAVE": False}
    cases = {
        "forward": ("forward", forward["AHEAD"], {**forward, "FIND_CARRIED": False}),
        "forward, carried": ("forward", forward["AHEAD"], {**forward, "FIND_CARRIED": True}),
        "backward": ("backward", backend._GROUP, {"GROUP": backend._GROUP}),
    }
    results = {}
    for case, (name, steps, constants) in cases.items():
        compiled = compile_kernel(name, half, capability, WARP, **sizes, **constants)
        loops = [loop for loop in innermost_loops(compiled) if loop.count("MUFU") >= 16 * steps]
        issued = [opcode for loop in loops for opcode in loop]
        results[case] = {
            "loops": len(loops),
            "instructions": len(issued) / steps,
            "special functions": issued.count("MUFU") / steps,
            "shuffles": issued.count("SHFL") / steps,
            "registers": resource(compiled, "REG"),
        }
    print(json.dumps(results))


def main():
    for channels, rank, half, capability in STAGES if "all" in sys.argv else (STAGES[0], STAGES[-1]):
        sizes = {"DM": channels, "RP": rank, "NP": 16, "BD": TILE, "CHUNK": CHUNK}
        for save, find_carried in ((False, False), (True, False), (False, True)):
            ahead = {"AHEAD": backend.ahead(rank), "SAVE": save, "FIND_CARRIED": find_carried}
            report("forward", half, capability, WARP, **sizes, **ahead)
        shapes = {name: value for name, value in sizes.items() if name != "CHUNK"}
        report("adjoint", half, capability, WARP, **shapes, AHEAD=backend._ADJOINT_AHEAD)
        report("backward", half, capability, WARP, **sizes, GROUP=backend._GROUP)
        num_rows, padded = triton_gating.tile(channels)
        rows = {"DM": channels, "ROWS": num_rows, "COLUMNS": padded}
        report("gated norm forward", half, capability, {}, **rows)
        report("gated norm backward", half, capability, {}, **rows)
        report("merge", half, capability, {}, DM=channels, BLOCK=backend._MERGE_BLOCK)


def report(name, half, capability, options, **constants):
    spilled = resource(compile_kernel(name, half, capability, options, **constants), "STACK")
    assert spilled <= MOST_SPILLED_BYTES, (name, constants, spilled)
    print(name, constants, f"{spilled} bytes spilled, ok")


if __name__ == "__main__":
    counts() if "counts" in sys.argv else main()
