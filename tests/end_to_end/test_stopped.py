"""A command that is told to end, as by a CI server or `timeout`, leaves nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_export_leaves_nothing(stop: signal.Signals, tmp_path: Path) -> None:
    output, temporary = tmp_path / "output", tmp_path / "temporary"
    output.mkdir()
    temporary.mkdir()
    words = ["export", "asset:turbo-vaed-tiny", "--target", "coreml-fp16", "--output", str(output / "bundle")]
    command = [sys.executable, "-c", "from toolkit.cli.main import main; main()", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"TMPDIR": str(temporary)}) as process:
        while process.poll() is None and not list(output.iterdir()):
            time.sleep(0.05)
        process.send_signal(stop)
    assert process.returncode == 130
    assert not list(output.iterdir())
    assert not list(temporary.glob("handheld*"))
