"""Slim networks whose `.weights` and `.cfg` OpenCV 4 was run on; its outputs are fixtures/darknet_opencv.npz.

    python -m tests.darknet_cases PYTHON_WITH_OPENCV_4

runs it again and writes the fixture.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CASES = ("darknet", "exported", "backbone", "tiny", "tiny-3l")
_SLIM = [
    "--backbone_input_shape=8,8,16,16,32",
    "--backbone_shape=8,16,16,32,32",
    "--labels=ship,plane",
    "--test_img_shape=64,96",
    "--anchor_scales=[[4,6],[9,8],[10,18],[20,16],[24,40],[44,30],[50,60],[90,40],[80,90]]",
]
OPTIONS = {
    "darknet": [
        *_SLIM,
        "--backbone_layers=1,1,2,1,2",
        "--downsample_padding=symmetric",
        "--image_mean=0,0,0",
        "--image_std=1,1,1",
    ],
    # What Darknet has no word for: one-sided padding and a normalised input.
    "exported": [
        *_SLIM,
        "--backbone_layers=2,1,1,2,1",
        "--backbone_activation=silu",
        "--neck_activation=silu",
        "--lateral_kernel=3",
        "--scale_x_y=1.3,1.15,1.0",
    ],
}
OPTIONS["backbone"] = OPTIONS["darknet"]
_TINY = [
    "--backbone_input_shape=3,8,16,16,32",
    "--backbone_shape=8,16,16,32,32",
    "--labels=ship,plane",
    "--test_img_shape=64,96",
]
# An anchor in both heads, as in Darknet's yolov4-tiny.cfg.
OPTIONS["tiny"] = [
    *_TINY,
    "--network=yolov4-tiny",
    "--anchor_scales=[[10,18],[20,16],[24,40],[24,40],[50,60],[80,90]]",
]
OPTIONS["tiny-3l"] = [*_TINY, "--network=yolov4-tiny-3l", _SLIM[-1], "--scale_x_y=1.2,1.1,1.05"]


def input_image() -> np.ndarray:
    """(1, 3, 64, 96) float32 in 0..1."""
    return np.random.default_rng(5).uniform(0, 1, (1, 3, 64, 96)).astype(np.float32)


def write_case(name: str, folder: Path):
    """Write the `.cfg` and `.weights` of a case; network and config that they belong to.

    `darknet` and `backbone` are filled at random by Darknet's rules, `exported` is a network of ours.
    """
    import mindspore as ms

    from src.config import load_config
    from src.weights import darknet
    from src.weights.layer_order import darknet_layers
    from src.yolo import build_network
    from tests.darknet_file import write_random_weights
    from tests.golden import fill_golden

    config = load_config(OPTIONS[name])
    network = build_network(config)
    fill_golden(network)
    for parameter in network.get_parameters():  # so that what happens at the bottom shows at the top
        if parameter.name.endswith(".weight"):
            parameter.set_data(ms.Tensor(parameter.asnumpy() * np.float32(1.3)))
    layers = darknet_layers(network)
    if name == "backbone":
        wanted = {p.name for p in network.get_parameters() if p.name.startswith("feature_map.backbone.")}
        layers = darknet.first_layers(layers, wanted)
    layout = darknet.own_layout(layers, config.image_mean, config.image_std)
    cfg = darknet.cfg_text(
        layers,
        layout,
        input_hw=config.eval_input_hw,
        heads=config.heads,
        classes=config.num_classes,
    )
    (folder / f"{name}.cfg").write_text(cfg)
    path = folder / f"{name}.weights"
    if name == "exported":
        values = {p.name: p.asnumpy() for p in network.get_parameters()}
        darknet.write_weights(path, layers, values, layout)
    else:
        write_random_weights(path, cfg)
    return network, config


def digest(folder: Path, name: str) -> str:
    """Of what OpenCV read."""
    data = (folder / f"{name}.cfg").read_bytes() + (folder / f"{name}.weights").read_bytes()
    return hashlib.sha256(data).hexdigest()


def run_opencv(python: str, cfg: Path, weights: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of OpenCV 4 (see opencv4.py), by an interpreter that has it."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "x.npy", Path(folder) / "out.npz"
        np.save(source, image)
        script = Path(__file__).with_name("opencv4.py")
        subprocess.run([python, str(script), str(cfg), str(weights), str(source), str(out)], check=True)
        with np.load(out) as found:
            return {key: found[key] for key in found.files}


def main(python: str) -> None:
    """Write the fixture."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            write_case(name, Path(folder))
            paths = (Path(folder) / f"{name}{ending}" for ending in (".cfg", ".weights"))
            outputs = run_opencv(python, *paths, input_image())
            found |= {f"{name}_{key}": value for key, value in outputs.items()}
            found[f"{name}_digest"] = np.array(digest(Path(folder), name))
    np.savez_compressed(Path(__file__).parent / "fixtures" / "darknet_opencv.npz", **found)


if __name__ == "__main__":
    from src.runtime.device import prepare_environment

    prepare_environment()
    main(sys.argv[1])
