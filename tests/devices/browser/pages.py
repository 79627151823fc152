"""A page played by the test: what a browser would say to the profile under way, without a browser."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

WASM = {"provider": "wasm"}
GPU = {"provider": "webgpu", "adapter": {"vendor": "arm", "architecture": "valhall"}}
SOFTWARE_GPU = {"provider": "webgpu", "adapter": {"vendor": "google", "architecture": "swiftshader"}}
PHONE = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Mobile Safari/537.36"
)


def facts(*offers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    told = {
        "user_agent": PHONE,
        "platform": "Android",
        "platform_version": "16.0.0",
        "model": "Pixel 9",
        "cores": 8,
        "isolated": True,
        "clock_ms": 0.005,
        "offers": list(offers or (WASM,)),
    }
    return {**told, **changes}


class Page:
    """A visitor at `address`. Calls give the answer; those that end in a refusal raise `httpx.HTTPStatusError`."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(timeout=30)
        opened = self.http.get(address, follow_redirects=True)
        opened.raise_for_status()
        self.base = str(opened.url)
        self.work: dict[str, Any] = {}
        self.said = 0

    def post(self, path: str, **content: Any) -> Any:
        answer = self.http.post(self.base + path, **content)
        answer.raise_for_status()
        return answer.json()

    def begin(self, told: dict[str, Any] | None = None) -> dict[str, Any]:
        self.said = 0
        self.work = self.post("api/begin", json=told or facts())
        return self.work

    def say(self, kind: str, **said: Any) -> Any:
        answer = self.post(f"api/{self.work['run']}/say/{self.said + 1}", json={"kind": kind, **said})
        self.said += 1
        return answer

    def outputs(self, candidate: int, *arrays: np.ndarray) -> Any:
        content = b"".join(array.tobytes() for array in arrays)
        return self.post(f"api/{self.work['run']}/outputs/{candidate}", content=content)

    def ready(self, candidate: int, frames: np.ndarray) -> None:
        """Loaded, proved and warmed up."""
        self.outputs(candidate, frames)
        self.say("ready", candidate=candidate, load_ms=5.0, first_ms=2.0, warmup_ms=[1.0, 1.0, 1.0])

    def rounds(self, times: list[float | None], most: int | None = None) -> None:
        """What is left of the rounds, or the next `most` of them."""
        for repeat, first, count in self.work["left"]:
            if most == 0:
                return
            self.say("begin", repeat=repeat, waited_s=1.0 if repeat else 0.0)
            for number in range(first, first + count):
                if most == 0:
                    return
                self.say("round", number=number, times_ms=times)
                most = None if most is None else most - 1

    def measure_all(self, frames: np.ndarray, time_ms: float = 2.0) -> None:
        """A whole visit with every candidate."""
        self.begin()
        for candidate in self.work["candidates"]:
            self.ready(candidate["number"], frames)
        self.rounds([time_ms] * len(self.work["candidates"]))
        self.say("done")


def refusal(error: httpx.HTTPStatusError) -> tuple[int, str]:
    return error.response.status_code, error.response.json()["error"]
