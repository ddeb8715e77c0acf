"""The published log line, to the letter, and where lines go."""

import re

import numpy as np

from src.logger import get_logger, setup_logger, step_line


def test_step_line_is_the_published_one():
    line = step_line(1, 377, 1280.677487, 7642.25, 8.37, float(np.float32(0.003)))
    assert line == (
        "epoch[1], iter[377], loss:1280.677487, per step time: 7642.25 ms, fps: 8.37, lr:0.003000000026077032"
    )


def test_lines_reach_the_file_and_the_terminal_once(tmp_path, capsys):
    for _ in range(2):  # a second set-up must not double the lines
        setup_logger(tmp_path)
    get_logger().info("hello")
    printed = capsys.readouterr().out
    pattern = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}:INFO:hello$"
    assert len(re.findall(pattern, printed, re.M)) == 1
    (log,) = {file for file in tmp_path.glob("*_rank_0.log") if file.stat().st_size}
    assert re.fullmatch(pattern + r"\n?", log.read_text().rstrip("\n"), re.M)


def test_other_ranks_are_quiet_on_the_terminal(tmp_path, capsys):
    setup_logger(tmp_path, rank=3)
    get_logger().info("detail")
    get_logger().warning("trouble")
    printed = capsys.readouterr().out
    assert "detail" not in printed and "trouble" in printed
    assert "detail" in next(iter(tmp_path.glob("*_rank_3.log"))).read_text()
