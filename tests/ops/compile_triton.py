"""Compiles the Triton kernels for NVIDIA GPUs on any machine, as stages 1 and 4 of the network launch them.

Run by test_triton.py in a process of its own, with a cache of its own; ``all`` takes all four stages. Prints "ok" for
each kernel; fails where a kernel does not compile, or spills much more of its registers than it should.
"""

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


def spilled_bytes(compiled):
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        report = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", report.stdout + report.stderr)[1])


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
    spilled = spilled_bytes(compile_kernel(name, half, capability, options, **constants))
    assert spilled <= MOST_SPILLED_BYTES, (name, constants, spilled)
    print(name, constants, f"{spilled} bytes spilled, ok")


if __name__ == "__main__":
    main()
