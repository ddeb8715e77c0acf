"""What depends on the machine: CPU kernel guard, device and what is set on it, ranks and seeds.

Training asks "Ascend or CPU?" nowhere else; what runs an exported file asks in `detect/runtimes.py`, what writes one in
`export/export.py`. `guard_cpu_kernels` must run before the first
`import mindspore`, so MindSpore is imported inside the functions that need it.
"""

import os
from dataclasses import dataclass

from ..base.errors import UserError, first_line
from ..config import Config
from .rank_table import adopt_rank_table

# Set by msrun, or by a rank table's launcher, in each process of a distributed job.
LAUNCHER_VARIABLES = ("MS_ROLE", "RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH", "OMPI_COMM_WORLD_SIZE")
DEVICE_VARIABLES = ("DEVICE_ID", "ASCEND_DEVICE_ID")  # the second is ModelArts' name
ASCEND_OPTIONS = ("jit_level", "op_compile", "precision_mode")
HCCL_SECONDS = "600"  # ranks reach their first exchange minutes apart: CANN's own limit is 120 s
LARGEST_MESSAGE = 4096  # megabytes: no network's gradients are more
FIRST_910 = "ascend910"  # the card's name for MindSpore; later ones have a letter or number behind


@dataclass(frozen=True)
class Runtime:
    """This process's place among the processes of a job."""

    rank: int = 0
    group_size: int = 1

    @property
    def is_master(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0


def prepare_environment() -> None:
    """What must be set before MindSpore is imported; entry points call it first. A user's setting wins."""
    guard_cpu_kernels()
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's log: errors only, so that ours can be read


def guard_cpu_kernels() -> None:
    """Keep oneDNN off its reference convolution on AVX-512 machines.

    MindSpore 2.9 and 2.10 ship a oneDNN that has no fast NCHW 3x3 kernel for AVX-512 and falls back to
    one about 140 times slower. Capping the instruction set at AVX2 selects the GEMM kernel. A value that
    the user has set wins.
    """
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several.

    In MindSpore's dry run msrun leaves its own variables out and sets the number of ranks alone.
    """
    if os.environ.get("MS_SIMULATION_LEVEL") and os.environ.get("RANK_SIZE", "1") != "1":
        return True
    return any(os.environ.get(name) for name in LAUNCHER_VARIABLES)


def device_id(config: Config) -> int:
    """The card of this process: of the environment, else of the option `device_id`.

    Raises:
        UserError: a variable that is no number of a card.
    """
    for name in DEVICE_VARIABLES:
        if text := os.environ.get(name):
            if not (text.isascii() and text.isdigit()):
                raise UserError(
                    f"{name}: {text!r} is no number of a card; set it to one such as 0, or unset it"
                )
            return int(text)
    return config.device_id


def setup_runtime(config: Config) -> Runtime:
    """Choose the device, join the job's other processes and seed MindSpore.

    `is_distributed` without a launcher's variables gives one process: the default of the option is on, and
    `python train.py` on a laptop should run.

    Raises:
        UserError: the installed MindSpore has no runtime for `device_target`, an option is Ascend's and the
            device is not, or ranks cannot be joined.
    """
    import mindspore as ms

    joins = config.is_distributed and is_launched()
    card = device_id(config)
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        if config.device_target == "CPU":
            ms.set_device("CPU")
        else:
            ms.set_device(config.device_target, card)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"device_target: no {config.device_target} runtime on this machine ({first_line(error).split('.')[0]}); "
            "use --device_target CPU, or install MindSpore for that device"
        ) from error
    if config.device_target == "Ascend":
        _set_ascend(config)
    else:
        _refuse_ascend_options(config)
    ms.set_seed(config.seed)
    return _join(config) if joins else Runtime()


def _set_ascend(config: Config) -> None:
    """What is set on the card before any graph or communication: MindSpore takes each once."""
    import mindspore as ms
    from mindspore._c_expression import MSContext

    if config.deterministic:
        ms.set_deterministic(True)  # before the communication: its sums are to have one order too
    if config.jit_level:
        ms.set_context(jit_config={"jit_level": config.jit_level})
    if config.op_compile:
        ms.device_context.ascend.op_tuning.op_compile(config.op_compile == "online")
    mode = config.precision_mode
    if not mode and MSContext.get_instance().get_ascend_soc_version() == FIRST_910:
        mode = "allow_fp32_to_fp16"  # it has no float32 convolution
    if mode:
        ms.device_context.ascend.op_precision.precision_mode(mode)


def _refuse_ascend_options(config: Config) -> None:
    for key in ASCEND_OPTIONS:
        if config[key]:
            raise UserError(
                f"{key}: {config[key]} is for Ascend, device_target is {config.device_target}; leave it empty"
            )


def _join(config: Config) -> Runtime:
    """Join the processes of the job (UserError where they do not come)."""
    import mindspore as ms
    from mindspore import communication

    if config.device_target == "Ascend":
        os.environ.setdefault("HCCL_CONNECT_TIMEOUT", HCCL_SECONDS)
        adopt_rank_table()
    try:
        communication.init()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"is_distributed: cannot join the other processes: {first_line(error)}; "
            "start with msrun or scripts/run_distribute_train.sh, or pass --is_distributed=0"
        ) from error
    runtime = Runtime(communication.get_rank(), communication.get_group_size())
    # The launcher names a rank that died by this line.
    print(f"rank {runtime.rank} of {runtime.group_size} is process {os.getpid()} ", flush=True)
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=runtime.group_size
    )
    return runtime


def fuse_gradients(sizes: list[int], messages: int) -> None:
    """Exchange the gradients in a number of fused messages of about equal size.

    `DistributedGradReducer` marks its AllReduce operators as one message. GE follows the marks; kernel by kernel (O0)
    MindSpore 2.10 does so only where `comm_fusion` is set, and sends a message a gradient otherwise (seen in the dry
    run). Split, those that are ready first are sent while the rest is computed.

    Args:
        sizes: number of values of each gradient, in the order of the optimizer's parameters.
        messages: how many; 0 leaves it to MindSpore.
    """
    import mindspore as ms

    if not messages:
        return
    ends = message_ends(sizes, messages)
    # Of the modes, `index` splits behind given gradients; it wants one at least. `size` splits by megabytes.
    fusion = {"mode": "index", "config": ends} if ends else {"mode": "size", "config": LARGEST_MESSAGE}
    ms.set_auto_parallel_context(comm_fusion={"allreduce": fusion})


def message_ends(sizes: list[int], messages: int) -> list[int]:
    """Indices of the last gradient of each message but the last one, as even as whole gradients allow.

    Raises:
        UserError: more messages than gradients.
    """
    if messages > len(sizes):
        raise UserError(f"gradient_messages: {messages}, there are {len(sizes)} gradients; take fewer")
    ends, done, total = [], 0, sum(sizes)
    for index, size in enumerate(sizes[:-1]):
        done += size
        left = len(sizes) - 1 - index  # every message gets at least one
        missing = messages - 1 - len(ends)
        if missing and (done * messages >= (len(ends) + 1) * total or left == missing):
            ends.append(index)
    return ends


def used_memory(config: Config) -> str:
    """Memory that the run holds now, as text: of the device, or of this process on the CPU."""
    if config.device_target == "CPU":
        import psutil  # comes with MindSpore

        return f"{psutil.Process().memory_info().rss / 2**30:.1f} GB"
    import mindspore as ms

    return f"{ms.runtime.memory_reserved() / 2**30:.1f} GB"


def mask_piece(config: Config) -> int:
    """Pairs of a box and a prediction that the ignore mask looks at at once, 4 bytes each in several tensors.

    Each piece is a dozen kernels, whose start costs an Ascend or GPU more than memory does; a CPU gains nothing
    beyond its caches.
    """
    return 1 << 22 if config.device_target == "CPU" else 1 << 24
