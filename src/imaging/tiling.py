"""Where tiles begin: of a data set (`datasets/dota_split.py`) and of a scene (`detect/scene_tiles.py`)."""

PADDING = 128  # grey around a scene that is smaller than a tile


def tile_starts(length: int, tile_size: int, overlap: float) -> list[int]:
    """Where tiles begin along a side; the last one ends at the border, one tile covers a short side."""
    if length <= tile_size:
        return [0]
    step = max(1, round(tile_size * (1 - overlap)))
    starts = list(range(0, length - tile_size, step))
    return [*starts, length - tile_size]
