"""Readers of other annotation formats and the writer of COCO's; `utils/convert_to_coco.py` is their tool."""
