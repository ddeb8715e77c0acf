"""The published log line, to the letter, and where lines go."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

from src.logger import get_logger, setup_logger, step_line
from tests import ROOT


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


SCRIPT = """
import sys
from src.logger import progress_bar, setup_logger
log = setup_logger(rank=int(sys.argv[1]))
with progress_bar(4, "train", "step", int(sys.argv[1]), 1) as bar:
    for step in range(3):
        bar.set_postfix_str("loss 12.5, 3.5 images/s, 0.4 GB", refresh=False)
        bar.update()
        bar.refresh()
        log.info("line %d", step)
"""


def run_on_terminal(rank, stderr=None):
    """What a terminal of 120 columns is sent; standard error may go elsewhere."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(rank)],
        cwd=ROOT,
        stdin=side,
        stdout=side,
        stderr=side if stderr is None else stderr,
    )
    os.close(side)
    sent = b""
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:  # the process has ended
            break
        if not data:
            break
        sent += data
    os.close(main)
    assert process.wait() == 0
    return sent.decode()


def test_a_terminal_gets_a_bar_with_loss_speed_memory_and_time_left():
    sent = run_on_terminal(rank=0)
    assert re.search(
        r"train: +75%\|.*\| 3/4 \[\d\d:\d\d<\d\d:\d\d, .*step.*, loss 12\.5, 3\.5 images/s, 0\.4 GB\]", sent
    )
    assert len(re.findall(r":INFO:line \d\r\n", sent)) == 3  # lines stand above the bar, whole


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pipe_and_other_ranks_get_no_bar(rank):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(rank)], cwd=ROOT,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == "" and "train:" not in done.stdout
    assert len(re.findall(r"^\S+ \S+:INFO:line \d$", done.stdout, re.M)) == (3 if rank == 0 else 0)


def test_no_bar_where_standard_error_is_a_file_or_on_another_rank(tmp_path):
    with (tmp_path / "errors").open("w") as errors:
        assert "train:" not in run_on_terminal(rank=0, stderr=errors)
    assert (tmp_path / "errors").read_text() == ""
    assert run_on_terminal(rank=1) == ""
