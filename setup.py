"""What pyproject.toml cannot say: folders of src, and the files beside it, as parts of the package `yolov4`."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

BESIDE = [Path("default_config.yaml"), *sorted(Path("configs").rglob("*.yaml"))]


class BuildWithOptions(build_py):
    """Puts default_config.yaml and configs/ into the package; in a checkout they stay where they are published."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for path in BESIDE:
            target = Path(self.build_lib) / "yolov4" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(
    packages=["yolov4", *(f"yolov4.{name}" for name in find_packages("src"))],
    package_data={"yolov4": ["**/*.csv"]},
    cmdclass={"build_py": BuildWithOptions},
)
