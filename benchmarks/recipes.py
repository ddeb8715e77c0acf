"""What each part of the paper's bag does to held-out AP on the drawn sample, at the same number of steps.

    python -m benchmarks.recipes --out FOLDER [--epochs 6] [--only mosaic,ema]

Every run is the quick start's, shorter, with one option changed; the plain one is run with two seeds, whose
difference tells the noise. `finetune` starts from the plain run's 16 classes and learns three own classes in a
quarter of the epochs that `own_classes` has from nothing. Results are printed and written to recipes.json.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = {"ship": "boat", "small-vehicle": "car", "storage-tank": "tank"}
RECIPES = {
    "plain": [],
    "plain, seed 2": ["--seed=2"],
    "mosaic": ["--mosaic=1"],
    "ema": ["--ema_decay=0.99"],
    "ciou": ["--box_loss=ciou"],
    "sat": ["--self_adversarial=0.1"],
    "drop_block": ["--drop_block=0.02", "--drop_block_size=3"],
}


def run(*words) -> str:
    """Output of a command of the project; ends the benchmark where it fails."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def train(name: str, tiles: Path, out: Path, epochs: int, words: list[str]) -> dict:
    """Train a recipe; its held-out AP at the end."""
    started = time.perf_counter()
    text = run(
        "train.py", "--config=configs/quickstart.yaml", f"--data_dir={tiles}", f"--ckpt_path={out / name}",
        f"--max_epoch={epochs}", f"--t_max={epochs}", f"--eval_start_epoch={epochs}", *words,
    )  # fmt: skip
    (ap50,) = re.findall(r"mAP@0\.5 with up to \d+ detections an image and class: (\S+)", text)
    (mean_ap,) = re.findall(r"update best result: (\S+)", text)
    return {
        "recipe": name,
        "epochs": epochs,
        "mAP@0.5": float(ap50),
        "mAP": float(mean_ap),
        "seconds": time.perf_counter() - started,
    }


def own_classes(tiles: Path, out: Path) -> Path:
    """The tiles with three classes of other names, everything else unlabelled."""
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        document = json.loads((tiles / "annotations" / f"{split}.json").read_text())
        names = {category["id"]: category["name"] for category in document["categories"]}
        kept = [entry for entry in document["annotations"] if names[entry["category_id"]] in OWN]
        new_id = {name: number for number, name in enumerate(OWN, start=1)}
        document["annotations"] = [
            {**entry, "category_id": new_id[names[entry["category_id"]]]} for entry in kept
        ]
        document["categories"] = [{"id": new_id[old], "name": own} for old, own in OWN.items()]
        (out / "annotations" / f"{split}.json").write_text(json.dumps(document))
        if not (out / split).exists():
            (out / split).symlink_to((tiles / split).resolve())
    return out


def main() -> None:
    """Run the recipes that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--only", default="", help="names, separated by commas")
    args = parser.parse_args()
    out = args.out.resolve()
    scenes, tiles = out / "scenes", out / "tiles"
    if not tiles.is_dir():
        run("utils/make_sample.py", "--out", scenes, "--overwrite")
        for split in ("train", "val"):
            run("utils/split_dota.py", "--src", scenes / split, "--out", tiles, "--split", split)
    chosen = args.only.split(",") if args.only else [*RECIPES, "finetune"]
    result_file = out / "recipes.json"
    results = json.loads(result_file.read_text()) if result_file.is_file() else []

    def add(entry: dict) -> None:
        results.append(entry)
        result_file.write_text(json.dumps(results, indent=1))
        print(f"{entry['recipe']:<16} {entry['epochs']} epochs  mAP@0.5 {entry['mAP@0.5']:.3f}", flush=True)

    for name, words in RECIPES.items():
        if name in chosen:
            add(train(name, tiles, out, args.epochs, words))
    if "finetune" in chosen:
        (start,) = (out / "plain").glob("*/ckpt_0/best_map.ckpt")
        data = own_classes(tiles, out / "own_tiles")
        labels = f"--labels={','.join(OWN.values())}"
        long, short = 4 * max(1, args.epochs // 4), max(1, args.epochs // 4)
        add(train("own classes", data, out, long, [labels]))
        words = [
            labels, "--transfer_train=1", "--transfer_boxes=1", f"--pretrained_checkpoint={start}",
            "--warmup_epochs=0", "--freeze=feature_map.backbone",
        ]  # fmt: skip
        add(train("finetune", data, out, short, words))


if __name__ == "__main__":
    main()
