"""Run a Darknet network in OpenCV 4: python opencv4.py CFG WEIGHTS INPUT.npy OUT.npz

Needs OpenCV before 5, which has no Darknet importer any more, and nothing of this project. Writes, for a detector,
`raw<i>` (1, 3 * (5 + C), H, W) and `decoded<i>` (cells * 3, 5 + C) of strides 8, 16, 32; for other networks `map`.
Class columns of `decoded` are objectness x class, 0 where that is below 0.2.
"""

import sys

import cv2
import numpy as np


def main(cfg: str, weights: str, source: str, out: str) -> None:
    network = cv2.dnn.readNetFromDarknet(cfg, weights)
    network.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    network.setInput(np.load(source))
    heads = [name for name in network.getLayerNames() if name.startswith("yolo_")]
    if not heads:
        np.savez_compressed(out, version=cv2.__version__, map=network.forward())
        return
    heads.sort(key=lambda name: int(name.split("_")[1]))
    found = {"version": cv2.__version__}
    # Decoded and raw outputs apart: OpenCV may decode in place.
    for index, map_ in enumerate(network.forward(heads)):
        found[f"decoded{index}"] = map_.copy()
    for index, name in enumerate(heads):
        found[f"raw{index}"] = network.forward(f"conv_{int(name.split('_')[1]) - 1}").copy()
    np.savez_compressed(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
