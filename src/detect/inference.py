"""Detect in any images with any backend: small ones in batches, larger ones as scenes."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..base.atomic import atomic_write
from ..base.errors import UserError
from ..base.file_names import output_stems
from ..config import Config
from ..imaging.image_io import read_rgb, write_image
from ..imaging.visualize import draw_boxes
from ..logger import get_logger, progress_bar, setup_logger
from ..runtime.collectives import data_threads, new_folder
from ..runtime.device import Runtime
from .backends import Backend, open_model
from .detections import detect_set
from .images import Failure, ImageLoader, list_images, split_by_size
from .letterbox import eval_resize
from .merge import MergeOptions
from .postprocess import Detections, PostprocessOptions, postprocess_options
from .results import FORMATS, ImageDetections, write_results
from .scenes import SceneDetections, SceneOptions, detect_scene, draw_preview, write_scene_maps

SOME_FAILED = 1  # exit code where images are left out


def run_inference(config: Config) -> int:
    """Detect in the images of `img_path` with the model of `pretrained`; the exit code.

    Images that cannot be done are named and listed in failed.txt; the rest is done and the code is 1.

    Raises:
        UserError: no images, no model, or a disk that is full.
    """
    if not config.pretrained:
        raise UserError("model: not set; give a .ckpt, .mindir or .onnx, --model=FILE (or --ckpt_path=FILE)")
    unknown = set(config.result_format) - {*FORMATS, "geojson"}
    if unknown:
        raise UserError(
            f"result_format: {', '.join(sorted(unknown))} is not one of {', '.join(FORMATS)}, geojson"
        )
    paths = list_images(config.img_path)
    folder = new_folder(config.log_path, Runtime())
    setup_logger(folder)
    logger = get_logger()
    backend, config = open_model(config)
    small, large, failures = split_by_size(paths, largest_side(config))
    started = time.perf_counter()
    images = Path(config.infer_log or folder / "pictures")
    stems = dict(zip(small + large, output_stems(path.stem for path in small + large)))
    results, left_out = detect_images(backend, small, config, images, stems)
    scenes, failed_scenes = detect_scenes(backend, large, config, folder, images, stems)
    results, failures = results + scenes, failures + left_out + failed_scenes
    chosen = [name for name in config.result_format if name in FORMATS]
    for file in write_results(folder, results, config.labels, chosen):
        logger.info("result file path: %s", file)
    code = report_failures(failures, len(paths), folder)
    count = sum(len(result.found) for result in results)
    seconds = time.perf_counter() - started
    logger.info("%d detections in %d images, %.1f s: %s", count, len(results), seconds, folder)
    return code


def inference_options(config: Config) -> PostprocessOptions:
    """Post-processing with the lowest score of inference."""
    return postprocess_options(config, "infer_threshold")


def detect_images(
    backend: Backend, paths: list[Path], config: Config, folder: Path, stems: dict[Path, str]
) -> tuple[list[ImageDetections], list[Failure]]:
    """Detections of images that fit the network's input, drawn into `folder` as `stems` names them; and failures."""
    loader = image_loader(paths, config)
    results: list[ImageDetections] = []
    failures: list[Failure] = []
    with progress_bar(len(paths), "detect", "image") as bar, ThreadPoolExecutor(1) as writer:
        jobs = []
        for batch, found in detect_set(backend.detect, loader, inference_options(config), bar.update):
            for record, detections in zip(batch.records, found):
                results.append(ImageDetections(record.path, record.width, record.height, detections))
                target = folder / f"{stems[record.path]}.jpg"
                jobs.append(writer.submit(draw_image, record.path, detections, config.labels, target))
        for result, job in zip(results, jobs):
            try:
                job.result()
            except Exception as error:
                failures.append(Failure.of(result.path, error))
    return results, loader.failures + failures


def image_loader(paths: list[Path], config: Config) -> ImageLoader:
    """Batches of images as the options have them."""
    return ImageLoader(
        paths,
        input_hw=config.eval_input_hw,
        batch_size=config.batch_size,
        resize=eval_resize(config),
        workers=data_threads(Runtime(), config.num_parallel_workers),
    )


def detect_scenes(
    backend: Backend, paths: list[Path], config: Config, folder: Path, images: Path, stems: dict[Path, str]
) -> tuple[list[ImageDetections], list[Failure]]:
    """Detections of larger images and rasters, tile by tile; and failures.

    Maps go into `folder`, previews into `images`, as `stems` names them. What was found stays where its map or its
    preview cannot be made.
    """
    options = scene_options(config)
    results: list[ImageDetections] = []
    failures: list[Failure] = []
    for path in paths:
        try:
            scene = scene_in(backend, path, config, options)
            get_logger().info(scene.describe())
            results.append(ImageDetections(path, scene.width, scene.height, scene.found))
            target = images / f"{stems[path]}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, draw_preview(scene))
            if "geojson" in config.result_format:
                write_scene_maps(scene, folder, target.stem)
        except Exception as error:
            failures.append(Failure.of(path, error))
    return results, failures


def scene_in(backend: Backend, path: Path, config: Config, options: SceneOptions) -> SceneDetections:
    """What is in a scene, by the options (UserError where it cannot be read)."""
    return detect_scene(
        backend.detect,
        path,
        tuple(config.labels),
        config.eval_input_hw,
        options,
        inference_options(config),
    )


def largest_side(config: Config) -> int:
    """Longest side in pixels of an image that goes through the network whole; larger ones are scenes."""
    return config.tile_size or max(config.eval_input_hw)


def scene_options(config: Config) -> SceneOptions:
    """How the options say that scenes are cut and merged.

    Raises:
        UserError: `bands` or `stretch` are not numbers.
    """
    bands = tuple(int(band) for band in _numbers(config, "scene_bands"))
    stretch = _numbers(config, "scene_stretch")
    if stretch and not (len(stretch) == 2 and 0 <= stretch[0] < stretch[1] <= 100):
        raise UserError(
            f"scene_stretch: {config.scene_stretch!r} must be two percentiles, the lower first, such as 2,98"
        )
    return SceneOptions(
        tile_size=config.tile_size or None,
        overlap=config.tile_overlap,
        batch_size=config.batch_size,
        workers=data_threads(Runtime(), config.num_parallel_workers),
        bands=bands or None,
        stretch=(stretch[0], stretch[1]) if stretch else None,
        merge=MergeOptions(config.scene_merge),
        outside=config.scene_sources == "host",
    )


def _numbers(config: Config, key: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in config[key].strip("[]").split(",") if word.strip())
    except ValueError:
        raise UserError(f"{key}: {config[key]!r} must be numbers separated by commas") from None


def draw_image(source: Path, found: Detections, class_names, target: Path) -> None:
    """A copy of an image with its detections (UserError where it cannot be written)."""
    image = draw_boxes(read_rgb(source), found.boxes, found.classes, class_names, found.scores)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(target, image)


def report_failures(failures: list[Failure], total: int, folder: Path) -> int:
    """Name what failed, in the log and in failed.txt; the exit code."""
    if not failures:
        return 0
    logger = get_logger()
    logger.error("%d of %d images could not be done:", len(failures), total)
    for failure in failures:
        logger.error("  %s", failure.reason)
    with atomic_write(folder / "failed.txt") as handle:
        handle.writelines(f"{failure.path}\n" for failure in failures)
    logger.error("listed in %s", folder / "failed.txt")
    return SOME_FAILED
