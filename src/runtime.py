"""What depends on the machine: CPU kernel guard, device, ranks and seeds.

The only module that asks "Ascend or CPU?". `guard_cpu_kernels` must run before the first
`import mindspore`, so MindSpore is imported inside the functions that need it.
"""

import os


def guard_cpu_kernels() -> None:
    """Keep oneDNN off its reference convolution on AVX-512 machines.

    MindSpore 2.9 and 2.10 ship a oneDNN that has no fast NCHW 3x3 kernel for AVX-512 and falls back to
    one about 140 times slower. Capping the instruction set at AVX2 selects the GEMM kernel. A value that
    the user has set wins.
    """
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
