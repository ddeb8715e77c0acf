"""GDAL's virtual rasters (`.vrt`): mosaics of plain files, read here as XML and written anew for GDAL.

What GDAL gets is never the file's own text: of a list of known elements alone, with every name of a file checked and
absolute. So no second reader of the XML can understand it in another way.
"""

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

from ..base.errors import UserError

_LARGEST = 20 << 20  # bytes
_MOST_SOURCES = 100_000
_DEEPEST = 20
# What gdalbuildvrt and gdal_translate write. Not among them: warped, raw and derived bands, processing, code.
_ELEMENTS = {
    "VRTDataset", "SRS", "GeoTransform", "GCPList", "GCP", "Metadata", "MDI", "BlockXSize", "BlockYSize",
    "OverviewList", "VRTRasterBand", "MaskBand", "Overview", "Description", "UnitType", "Offset", "Scale",
    "NoDataValue", "HideNoDataValue", "ColorInterp", "ColorTable", "Entry", "CategoryNames", "Category",
    "Histograms", "HistItem", "HistMin", "HistMax", "BucketCount", "IncludeOutOfRange", "Approximate", "HistCounts",
    "SimpleSource", "ComplexSource", "AveragedSource", "SourceFilename", "SourceBand", "SourceProperties",
    "SrcRect", "DstRect", "ScaleOffset", "ScaleRatio", "LUT", "NODATA", "UseMaskBand", "ColorTableComponent",
    "Exponent", "SrcMin", "SrcMax", "DstMin", "DstMax", "Clamp",
}  # fmt: skip
_PLAIN_NAME = re.compile(r"[^:<>|?*\\\0]+")
_PLAIN_KINDS = {"VRTDataset": (None,), "VRTRasterBand": (None, "VRTSourcedRasterBand")}  # by subClass


def read_mosaic(path: Path, outside: bool) -> tuple[bytes, list[Path]]:
    """(the mosaic's XML for GDAL, the files that it is of).

    Args:
        path: the `.vrt`.
        outside: whether its files may lie outside of its folder.

    Raises:
        UserError: no mosaic of plain files that are there, or files outside of its folder.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: larger than {_LARGEST} bytes; give its parts one by one")
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    root = _parse(path, text)
    if root.tag != "VRTDataset":
        raise UserError(f"{path}: not a raster that can be read; copy or convert it again")
    sources: dict[Path, None] = {}
    for element in root.iter():
        kinds = _PLAIN_KINDS.get(element.tag)
        if element.tag not in _ELEMENTS or (kinds and element.get("subClass") not in kinds):
            raise UserError(
                f"{path}: {element.get('subClass') or element.tag!r} is not read from a .vrt, mosaics of plain files "
                "are; convert it by gdal_translate"
            )
        if element.tag == "SourceFilename":
            source = _source(path, element, outside)
            sources[source] = None
            element.text = str(source)
            element.attrib = {"relativeToVRT": "0"}
    if len(sources) > _MOST_SOURCES:
        raise UserError(f"{path}: {len(sources)} files, more than {_MOST_SOURCES}; make smaller mosaics")
    return ElementTree.tostring(root), list(sources)


def _parse(path: Path, text: bytes) -> ElementTree.Element:
    """The document, without comments; a document type, so any entity of the file's own, is refused."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag, attributes):
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        builder.start(tag, attributes)

    def end(tag):
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_):
        raise ValueError("a document type")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(text, True)
        return builder.close()
    except (expat.ExpatError, ValueError, AssertionError, LookupError) as error:
        raise UserError(f"{path}: not the XML of a .vrt ({error}); make it again by gdalbuildvrt") from error


def _source(path: Path, element: ElementTree.Element, outside: bool) -> Path:
    """The absolute path of a file that a mosaic names."""
    name = (element.text or "").strip()
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 (links stay)
    relative = element.get("relativeToVRT") == "1"
    if len(element) or not _PLAIN_NAME.fullmatch(name) or name.startswith("/vsi"):
        raise UserError(f"{path}: {name!r} is none; name plain files of this host in it")
    source = Path(os.path.abspath(folder / name if relative else name))  # noqa: PTH100
    if not outside and folder not in source.parents:
        raise UserError(
            f"{path}: names {source}, which is outside of its folder; --scene_sources=host allows that"
        )
    if source.suffix.lower() == ".vrt":
        raise UserError(f"{path}: names {source.name}, another .vrt; make one of the files themselves")
    if not source.is_file():
        raise UserError(f"{path}: names {source}, and there is no such file")
    return source
