"""DOTA's label files without cutting: each scene is an image (`utils/split_dota.py` cuts them into tiles)."""

from pathlib import Path

from ...base.errors import UserError
from ...imaging.image_io import read_size
from ...logger import progress_bar
from ..dota_labels import read_labels
from ..dota_split import labelled_scenes
from .labelled import (
    SPLITS,
    LabelledImage,
    LabelledObject,
    LabelledSet,
    ReadOptions,
    split_by_share,
)


def read_dota(src: Path, options: ReadOptions) -> LabelledSet:
    """Scenes with horizontal boxes around their objects.

    Args:
        src: folder with {train,val}/{images,labelTxt}/, or with images/ and labelTxt/, which are split by share.
        options: `names` are the classes of the labels' version.

    Raises:
        UserError: scenes without labels, labels without scenes, or a line that is not of DOTA's form.
    """
    folders = [src / name for name in options.split_names]
    if options.val_share is None and all((folder / "images").is_dir() for folder in folders):
        pairs = {split: labelled_scenes(folder) for split, folder in zip(SPLITS, folders)}
    elif (src / "images").is_dir():
        pairs = split_by_share(labelled_scenes(src), options, src)
    else:
        raise UserError(
            f"--src: {src} has neither images/ and labelTxt/ nor these in {folders[0].name}/ and {folders[1].name}/"
        )
    result = LabelledSet(
        {split: [] for split in SPLITS}, options.names if isinstance(options.names, tuple) else None
    )
    with progress_bar(sum(map(len, pairs.values())), "read", "scene") as bar:
        for split, scenes in pairs.items():
            for scene, label_file in scenes:
                width, height = read_size(scene)
                objects = [
                    LabelledObject(
                        entry.name,
                        (x1, y1, x2, y2),
                        entry.difficult,
                        f"{label_file}: object {number}",
                    )
                    for number, entry in enumerate(read_labels(label_file, None), start=1)
                    for x1, y1, x2, y2 in [map(float, entry.box)]
                ]
                result.splits[split].append(LabelledImage(scene, width, height, objects))
                bar.update()
    return result
