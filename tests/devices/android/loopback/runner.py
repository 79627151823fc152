"""A native runner's stand-in: the runner protocol around this machine's ONNX Runtime, as an executable script.

`install` puts it where Handheld looks for runners. It runs any model as ONNX, whatever the runtime that it plays.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNNERS = {"executorch": "executorch-runner", "onnxruntime": "onnxruntime-runner"}


def install(root: Path, abi: str, runtimes: Sequence[str] = ("onnxruntime",)) -> None:
    """Install it as the runners of a processor in `root`, the folder of all runners."""
    from toolkit.files import sha256

    folder = root / f"stand-in-{abi}"
    folder.mkdir(parents=True)
    (folder / "libstand-in.so").write_bytes(b"a library that nobody loads")
    body = Path(__file__).read_text(encoding="utf-8")
    for runtime in runtimes:
        program = folder / RUNNERS[runtime]
        program.write_text(f"#!{sys.executable}\n{body}", encoding="utf-8")
        program.chmod(0o755)
    manifest = {
        "platform": folder.name,
        "abi": abi,
        "protocol": 1,
        "runners": {
            runtime: {"program": RUNNERS[runtime], "libraries": ["libstand-in.so"], "version": None, "source": "tests"}
            for runtime in runtimes
        },
        "sha256": {path.name: sha256(path) for path in folder.iterdir()},
    }
    (folder / "runners.json").write_text(json.dumps(manifest), encoding="utf-8")


def say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--memory", action="store_true")
    return parser.parse_args()


def load(given: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The model in a session, and what to feed it."""
    import numpy as np
    import onnxruntime

    # what runs here is this machine's library, found by its own means and not by the runner's
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    if not (Path(libraries) / "libstand-in.so").is_file():
        raise FileNotFoundError(f"no library beside the runner in '{libraries}'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = given.trace
    options.profile_file_prefix = f"{os.environ['TMPDIR']}/handheld-profile-{os.getpid()}-"
    session = onnxruntime.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
    feed = {}
    for text, info in zip(given.input, session.get_inputs(), strict=True):
        dtype, shape, path = text.split(":", 2)
        feed[info.name] = np.fromfile(path, dtype).reshape([int(side) for side in shape.split("x")])
    return session, feed


def answer(session: Any, feed: dict[str, Any]) -> None:
    """Commands until `quit` or the end of standard input."""
    outputs: list[Any] = []
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "run":
            for _ in range(int(rest) + 1):
                started = time.perf_counter()
                outputs = session.run(None, feed)
            say("ran", ms=(time.perf_counter() - started) * 1e3)
        elif command == "outputs":
            files = [f"{rest}{number}.bin" for number in range(len(outputs))]
            for path, array in zip(files, outputs, strict=True):
                array.tofile(path)
            facts = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in outputs]
            say("outputs", files=[{"path": path, **fact} for path, fact in zip(files, facts, strict=True)])
        elif command == "trace":
            Path(session.end_profiling()).rename(rest)
            say("traced", path=rest)
        elif command == "quit":
            return


def main() -> int:
    given = arguments()
    if given.memory:
        say("memory", baseline_bytes=10_000_000, peak_bytes=25_000_000)
        return 0
    try:
        session, feed = load(given)
    except Exception as error:  # noqa: BLE001 - a runner tells its host of every failure
        say("error", stage="load", message=str(error))
        return 1
    say("ready", protocol=1, runtime="Stand-in 1.0", threads=given.threads, load_ms=3.5, pid=os.getpid(), details={})
    answer(session, feed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
