"""COCO's 80 classes of objects and their category ids: numbers of 1 to 90, of which ten were never used."""

# In the order of their ids, which is that of the outputs of every network trained on COCO.
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
_NEVER_USED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_COCO_IDS = dict(zip(COCO_CLASSES, (number for number in range(1, 91) if number not in _NEVER_USED)))


def category_ids(class_names: tuple[str, ...]) -> tuple[int, ...]:
    """The COCO category id of each class where no annotation file tells them.

    The 80 classes of COCO, in any order, have COCO's ids, as its server wants them; other classes count from 1.
    """
    if sorted(class_names) == sorted(COCO_CLASSES):
        return tuple(_COCO_IDS[name] for name in class_names)
    return tuple(range(1, len(class_names) + 1))
