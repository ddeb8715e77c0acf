"""ONNX Runtime on a file that the project exported."""

import numpy as np
import onnxruntime

from benchmarks.peers.serve import Case, serve


def forward_case(path: str, size: int, batch: int, threads: int) -> Case:
    """One call on float32 images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
    name = session.get_inputs()[0].name
    return {"forward": lambda: session.run(None, {name: images})}, {"onnxruntime": onnxruntime.__version__}


if __name__ == "__main__":
    serve({"forward": forward_case})
