"""Files that come with the code: default_config.yaml and configs/.

In a checkout they lie beside the package, where the published version has them; in an installation, inside it.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
SHIPPED = _PACKAGE if (_PACKAGE / "default_config.yaml").is_file() else _PACKAGE.parent


def shipped_file(path: str) -> Path:
    """The file of this path; where there is none, the one of that path among the shipped files, if it is one."""
    here, ours = Path(path), SHIPPED / path
    return ours if not here.exists() and ours.is_file() else here
