"""What differs between the releases of the libraries that are supported; asked by feature, not by number."""

import cv2


def silence_opencv() -> None:
    """No lines of OpenCV's own about a damaged picture: the error is one line, ours.

    OpenCV 4 has `cv2.setLogLevel`, OpenCV 5 `cv2.utils.logging`.
    """
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
