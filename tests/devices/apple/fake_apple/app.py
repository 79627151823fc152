"""A fake of the runner app: it follows the job format as the Swift app does, and computes in plain Python.

Its models are Core ML packages only in name: a file in them holds the factor by which the model multiplies. One that
keeps a state multiplies the sum of all that it was given.
"""

from __future__ import annotations

import array
import json
import os
import signal
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(os.environ["FAKE_IPHONE"])
FOLDER = Path("Documents/handheld")


class App:
    def __init__(self, work: str, job: dict[str, Any], launch: str) -> None:
        self.work, self.job, self.launch = work, job, launch
        if work in ("hello", "clean"):
            self.path = FOLDER / f"{work}.jsonl"
            self.path.unlink(missing_ok=True)
        else:
            self.path = FOLDER / f"{job['job']}-{work}.jsonl"
            if self.path.exists():
                with self.path.open("ab") as file:
                    file.write(b"\n")
        self.fault = (ROOT / "fault").read_text().strip() if (ROOT / "fault").exists() else ""

    def tell(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "future": 1, **fields}) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def happens(self, fault: str) -> bool:
        """Whether a fault is due now; each happens once."""
        due = self.fault == fault
        if due:
            (ROOT / "fault").unlink()
            self.fault = ""
        return due

    def step(self, what: str, candidate: int) -> None:
        self.tell("step", what=what, candidate=candidate)
        if self.happens(f"crash:{what}:{candidate}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.happens(f"stall:{what}:{candidate}"):
            time.sleep(600)
        if self.happens(f"away:{what}:{candidate}"):
            self.cut_off()

    def cut_off(self) -> None:
        """The connection goes, and with it the app."""
        (ROOT / "gone").write_text(os.environ.get("FAKE_GONE_CALLS", "4"))
        sys.exit(0)

    def ready(self) -> None:
        models = [{"name": p.name, "bytes": p.stat().st_size} for p in sorted((FOLDER / "models").glob("*"))]
        self.tell(
            "ready",
            protocol=2 if self.fault == "protocol" else 1,
            launch=self.launch,
            app="1.0",
            system="iOS 18.1",
            model="iPhone15,2",
            cores=6,
            memory_bytes=6_000_000_000,
            thermal="nominal",
            charging=True,
            low_power=False,
            runtimes=["coreml"],
            models=models,
        )

    def model(self, candidate: dict[str, Any]) -> Any:
        with tarfile.open(FOLDER / "models" / candidate["model"]) as archive:
            member = archive.extractfile("Data/com.apple.CoreML/model.mlmodel")
            assert member is not None
            factor = json.loads(member.read())["factor"]
        steps = [*candidate["before"], candidate["inputs"]] if candidate["stateful"] else [candidate["inputs"]]
        tensor = next(tensor for tensor in candidate["inputs"] if tensor["name"] == "latent")
        values = [sum(column) for column in zip(*map(self.latent, steps), strict=True)]
        times, channels, height, width = tensor["shape"]
        frame, plane = channels * height * width, height * width
        chosen = [value for t in range(times) for value in values[t * frame : t * frame + 3 * plane]]
        return lambda: (array.array("f", [max(factor * value, 0) for value in chosen]), [times, 3, height, width])

    def latent(self, tensors: list[dict[str, Any]]) -> array.array[float]:
        tensor = next(tensor for tensor in tensors if tensor["name"] == "latent")
        return array.array({"float32": "f"}[tensor["dtype"]], (FOLDER / tensor["file"]).read_bytes())

    def each(self, act: Any) -> list[dict[str, Any]]:
        """Do something with every candidate; those with which it went well."""
        well = []
        for candidate in self.job["candidates"]:
            try:
                act(candidate)
                well.append(candidate)
            except KeyError as error:
                self.tell("failed", candidate=candidate["candidate"], stage="load", message=f"no {error}")
        return well

    def prove(self, candidate: dict[str, Any]) -> None:
        number = candidate["candidate"]
        self.step("load", number)
        output, shape = self.model(candidate)()
        file = f"{self.job['job']}-output-{number}-0.bin"
        (FOLDER / file).write_bytes(output.tobytes())
        told = {"name": candidate["outputs"][0], "file": file, "dtype": "float32", "shape": shape}
        times = {"load_ms": 11.5, "first_ms": 7.25, "compile_ms": 99.0}
        self.tell("proved", candidate=number, runtime="Core ML of iOS 18.1", outputs=[told], **times)

    def warm(self, candidate: dict[str, Any]) -> None:
        number = candidate["candidate"]
        self.step("warm up", number)
        self.model(candidate)()
        self.tell("warmed", candidate=number, warmup_ms=[3.0, 3.0, 3.0])

    def measure(self) -> None:
        active = {c["candidate"] for c in self.each(self.warm)}
        job, began = self.job, -1
        for number in range(job["first_round"], job["repeats"] * job["iterations"]):
            repeat = number // job["iterations"]
            if repeat != began:
                began = repeat
                waited = 0.0 if repeat == 0 else 1.5
                self.tell("began", repeat=repeat, started="2026-01-02T03:04:05Z", waited_s=waited, cooled=True)
            for candidate in sorted(active):
                self.step("round", candidate)
            if self.happens(f"fail:{number}"):
                last = max(active)
                self.tell("failed", candidate=last, stage="run", message="Core ML said no")
                active.remove(last)
            self.happening(number)
            times = [float(10 * n + number) if n in active else None for n in range(job["total"])]
            self.tell("round", number=number, times_ms=times)

    def happening(self, number: int) -> None:
        if self.happens(f"disconnect:{number}"):
            self.cut_off()
        if self.happens(f"garbage:{number}"):
            with self.path.open("ab") as file:
                file.write(b'{"event":"round","number":\xff\xfe!!\n')
        if self.happens(f"missed:{number}"):
            self.tell("round", number=number + 1, times_ms=[1.0] * self.job["total"])
        if self.happens(f"half:{number}"):
            with self.path.open("ab") as file:
                file.write(b'{"event":"round","numb')
            os.kill(os.getpid(), signal.SIGKILL)

    def memory(self, number: int) -> None:
        self.step("memory", number)
        self.tell("memory", candidate=number, baseline_bytes=50_000_000, peak_bytes=80_000_000 + number)

    def plan(self, candidate: dict[str, Any]) -> None:
        self.step("plan", candidate["candidate"])
        row = {"kind": "conv", "unit": "Neural Engine", "supported": ["CPU", "Neural Engine"], "operators": 2}
        self.tell("placed", candidate=candidate["candidate"], placement=[{**row, "cost_share": 0.75}])

    def clean(self) -> None:
        for path in FOLDER.glob(f"{self.job['job']}-*"):
            path.unlink()
        if not self.job["keep"]:
            for candidate in self.job["candidates"]:
                (FOLDER / "models" / candidate["model"]).unlink(missing_ok=True)

    def run(self, candidate: int) -> None:
        self.ready()
        if self.work == "prove":
            self.each(self.prove)
        elif self.work == "measure":
            self.measure()
        elif self.work == "memory":
            self.memory(candidate)
        elif self.work == "plan":
            self.each(self.plan)
        elif self.work == "clean":
            self.clean()
        self.tell("ended")


def main(work: str, *words: str) -> None:
    (FOLDER / "models").mkdir(parents=True, exist_ok=True)
    if work == "hello":
        App(work, {}, words[0]).run(0)
        return
    job = json.loads((FOLDER / f"{words[0]}-{words[1]}.json").read_text())
    App(work, job, words[1]).run(int(words[2]) if len(words) > 2 else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
