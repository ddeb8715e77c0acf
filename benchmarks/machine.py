"""What a measurement was made on."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path

OURS = ("mindspore", "numpy", "opencv-python-headless", "pillow", "onnxruntime", "pycocotools")
PEERS = ("torch", "mindyolo", "mindspore", "onnxruntime", "numpy", "pillow")


def load_average() -> list[float]:
    """Runnable processes over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def describe_machine(peers_python: Path | None = None) -> dict:
    """CPU, memory, versions, commit and load; of the peers' environment too where its interpreter is given."""
    processor = Path("/proc/cpuinfo").read_text()
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    flags = set(re.search(r"^flags\s*:(.*)$", processor, re.MULTILINE)[1].split())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    found = {
        "cpu": re.search(r"model name\s*:\s*(.*)", processor)[1],
        "cores": len(os.sched_getaffinity(0)),
        "flags": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "fma", "amx_bf16"}),
        "memory_gb": round(int(memory[1]) / 2**20, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(OURS),
        "commit": commit.stdout.strip(),
        "load_at_start": load_average(),
    }
    if peers_python:
        code = "import json, sys; from benchmarks.machine import versions; print(json.dumps(versions(sys.argv[1:])))"
        root = Path(__file__).resolve().parent.parent
        asked = subprocess.run(
            [str(peers_python), "-c", code, *PEERS], cwd=root, capture_output=True, text=True, check=True
        )
        found["peers"] = json.loads(asked.stdout)
    return found


def versions(packages) -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
