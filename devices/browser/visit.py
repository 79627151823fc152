"""One visitor's session: what the page may say when, checked, and kept in the store as it is said.

The page drives itself, so nothing that it says is taken on trust: every message must fit the plan and what was said
before it. What does not is refused with `Refused`.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np

from devices import protocol, sessions
from devices.bench import DeviceLost
from devices.browser.facts import Facts
from devices.browser.messages import LONGEST_BATCH, Begin, Done, GaveUp, Message, Operators, Ready, Taken, Trouble
from devices.journal import Journal
from devices.parities import prove, sample, tolerance
from devices.records import OperatorTime, Profile
from devices.sessions import Failed, Plan, Session, Source, Stopped
from toolkit.errors import DeviceError
from toolkit.parity import Parity

#: Times shorter than this many steps of the clock are those of a batch of calls.
CLOCK_STEPS = 20
#: Runs of the operator pass, its first left out.
OPERATOR_RUNS = 5
#: What ONNX Runtime calls the provider of the processor.
PROCESSOR = "CPU"

#: What a page that is loaded anew must tell as before: its session is one browser's on one device.
SAME = ("user_agent", "platform", "platform_version", "model", "cores", "isolated", "offers")

#: Arrays as browsers hold them, and as they are sent: little-endian.
DTYPES = {
    "float32": "<f4",
    "float16": "<f2",
    "float64": "<f8",
    "int64": "<i8",
    "int32": "<i4",
    "int8": "<i1",
    "uint8": "<u1",
    "bool": "|b1",
}


class Refused(Exception):
    """What the page asked for or said does not fit; `status` is HTTP's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


State = Literal["new", "under way", "done", "lost", "stopped"]


class Visit:
    """A visitor of the page: nothing yet but an address of its own, then a session, then its profile."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.state: State = "new"
        self.told = 0  # the number of the last message
        self.run = 0  # raised each time that the page is loaded; an older page of it is refused
        self.heard = time.monotonic()
        self.patience: float | None = None  # seconds of silence that are allowed now; None for the usual
        self.profile: Profile | None = None
        self.error: DeviceError | None = None
        self._ending = contextlib.ExitStack()
        self.session: Session
        self.facts: Facts
        self.sources: Sequence[Source] = ()
        self._version = ""
        self._proven: dict[int, Parity] = {}
        self._live: set[int] = set()
        self._began: int | None = None

    @property
    def is_under_way(self) -> bool:
        return self.state == "under way"

    def start(
        self,
        plan: Plan,
        sources: Sequence[Source],
        facts: Facts,
        version: str,
        journal: Journal,
        resume: bool,
        leave: Collection[str],
    ) -> None:
        """Begin the session; `sources` are those of its candidates, in their order.

        Where it may `resume` one, it is none of those to `leave`, by their ids.
        """
        self.session = self._ending.enter_context(journal.session(plan, resume, leave))
        self.sources, self.facts, self._version = sources, facts, version
        self.state = "under way"

    def load_page(self, facts: Facts) -> None:
        """The page begins, or begins anew: nothing is loaded in it yet. Raises `Refused` where another browser asks."""
        if any(getattr(facts, name) != getattr(self.facts, name) for name in SAME):
            raise Refused(409, "this measurement belongs to another browser; open the address that the command printed")
        self.run += 1
        self.told = 0
        self._proven, self._live, self._began = {}, set(), None

    def is_new(self, number: int) -> bool:
        """Whether a message is the next one; False where the page sends the last one again. Else raises `Refused`."""
        if number not in (self.told, self.told + 1):
            raise Refused(409, f"message {number} is not the next one")
        return number != self.told

    def check(self, run: int) -> None:
        """Raise `Refused` where a message of the page's `run`-th loading is not to be heard."""
        if self.state != "under way":
            raise Refused(409, "this measurement has ended; start the command on the computer again")
        if run != self.run:
            raise Refused(409, "this measurement goes on in another tab; close this one")
        self.heard, self.patience = time.monotonic(), None

    def bear_with(self, seconds: float) -> None:
        """Pages were not listened to for so long, since an output was compared or a store was written: no silence."""
        self.heard = min(time.monotonic(), self.heard + max(0.0, seconds))

    def runtime(self, candidate: int) -> str:
        """What runs a candidate; the version comes last, as in all records."""
        planned = self.session.plan.candidates[candidate]
        how = str(planned.unit)
        if planned.unit == "wasm":
            threads = self.session.plan.threads or 1
            how += f", {threads} thread{'s' if threads > 1 else ''}"
        elif planned.unit == "webnn" and (offer := self.facts.offer("webnn")) is not None and offer.unit:
            how += f", {offer.unit}"
        return f"ONNX Runtime Web ({how}) {self._version}"

    def asked(self, candidate: int) -> Source:
        """The artifact of a candidate that has not failed; raises `Refused` where there is no such."""
        if not 0 <= candidate < len(self.sources):
            raise Refused(422, f"there is no candidate {candidate}")
        if self.session.of(Failed, candidate) is not None:
            raise Refused(409, f"candidate {candidate} has failed")
        return self.sources[candidate]

    def failed(self, candidate: int) -> str | None:
        """Why a candidate failed, as the page may show it: without the file's path. None where it did not."""
        found = self.session.of(Failed, candidate)
        return found.reason.removeprefix(f"{self.sources[candidate].path}: ") if isinstance(found, Failed) else None

    def output_bytes(self, candidate: int) -> int:
        """The size of all outputs of a candidate, one behind the other."""
        return sum(array.nbytes for array in self._expected(self.asked(candidate)))

    def prove(self, candidate: int, content: bytes) -> Parity | None:
        """Compare outputs with the sample. None where they are wrong: the candidate has failed then."""
        source = self.asked(candidate)
        expected = self._expected(source)
        if len(content) != sum(array.nbytes for array in expected):
            raise Refused(422, f"{len(content)} bytes are not the outputs of candidate {candidate}")
        outputs, place = [], 0
        for array in expected:
            dtype = np.dtype(DTYPES[str(array.dtype)])
            outputs.append(np.frombuffer(content, dtype, array.size, place).reshape(array.shape))
            place += array.nbytes
        allowed = tolerance(source.manifest, source.target)
        try:
            parity = prove(source.path, outputs, expected, allowed, self.runtime(candidate))
        except DeviceError as error:
            self._fail(candidate, str(error))
            return None
        self._proven[candidate] = parity
        return parity

    def hear(self, message: Message) -> None:
        """Add what the page says to the session. Raises `Refused` where it does not fit, `Stopped` as sessions do."""
        match message:
            case Ready():
                self._ready(message)
            case Begin():
                self._begin(message)
            case Taken():
                self._round(message)
            case Operators():
                self._operators(message)
            case Trouble():
                source = self.asked(message.candidate)
                runtime = self.runtime(message.candidate)
                self._fail(message.candidate, f"{source.path}: {runtime} could not run it ({message.reason})")
            case Done():
                self._done()
            case GaveUp():
                self.lose(f"browser: the page failed ({message.reason})")

    def lose(self, reason: str) -> None:
        """The page is gone; the session stays in the store, to be resumed."""
        safe = f"{self.session.rounds_done} of {self.session.plan.schedule.rounds} rounds are in the store"
        lost = DeviceLost(f"{reason}; {safe}, and --resume goes on from there", self.session.lost(reason))
        self._abandon("lost", lost)

    def stop(self) -> None:
        """The command ends; the session stays in the store, to be resumed."""
        self._abandon("stopped", Stopped())

    def _abandon(self, state: State, error: Exception) -> None:
        if self.state == "under way":
            self.state = state
            self.error = error if isinstance(error, DeviceError) else None
            with contextlib.suppress(type(error)):
                self._ending.__exit__(type(error), error, None)

    def _ready(self, said: Ready) -> None:
        number = said.candidate
        self.asked(number)
        if number not in self._proven or number in self._live:
            raise Refused(409, f"candidate {number} was not just proved")
        self._live.add(number)
        self.session.add(
            sessions.Loaded(
                candidate=number,
                runtime=self.runtime(number),
                load_ms=said.load_ms,
                first_ms=said.first_ms,
                warmup_ms=said.warmup_ms,
                parity=self._proven[number],
                batch=said.batch,
            )
        )

    def _begin(self, said: Begin) -> None:
        left = self.session.left()
        if not left or said.repeat != left[0][0]:
            raise Refused(409, f"repeat {said.repeat} is not the next one")
        if not self._live:
            raise Refused(409, "no candidate is ready")
        self._began = said.repeat
        self.session.add(
            sessions.Began(
                repeat=said.repeat,
                started=sessions.now(),
                waited_s=said.waited_s,
                cooled=None,  # browsers tell no temperature
                temperature_c=None,
                clock_mhz=None,
            )
        )

    def _round(self, said: Taken) -> None:
        left = self.session.left()
        if not left or said.number != left[0][1] or self._began != left[0][0]:
            raise Refused(409, f"round {said.number} is not the next one")
        timed = {number for number, time_ms in enumerate(said.times_ms) if time_ms is not None}
        if len(said.times_ms) != len(self.sources) or timed != self._live:
            raise Refused(422, "a round has one time of each candidate that is ready")
        self.session.add(sessions.Round(times_ms=list(said.times_ms)))

    def _operators(self, said: Operators) -> None:
        """Times of the processor's operators only: of others, the profile holds the time to hand them over.

        A candidate of which nothing ran by its provider has failed: its times are the processor's.
        """
        number = said.candidate
        source, provider = self.asked(number), self.session.plan.candidates[number].unit
        nodes: Counter[str] = Counter()
        for row in said.rows:
            nodes[row.provider] += row.calls
        if provider != "wasm" and nodes and set(nodes) == {PROCESSOR}:
            self._fail(number, f"{source.path}: none of its operators ran by {provider}, but all on the processor")
            return
        rows = [
            OperatorTime(
                name=row.operator,
                kind=row.operator,
                unit=row.provider,
                ms=row.ms,
                calls=row.calls,
                obtained=self.session.plan.obtained,
            )
            for row in sorted(said.rows, key=lambda row: -row.ms)
            if provider == "wasm"
        ]
        self.session.add(sessions.OperatorsFound(candidate=number, operators=rows, nodes=dict(nodes)))

    def _fail(self, candidate: int, reason: str) -> None:
        self._live.discard(candidate)
        self._proven.pop(candidate, None)
        self.session.add(Failed(candidate=candidate, reason=reason))

    def _done(self) -> None:
        waiting = [n for n in range(len(self.sources)) if self.session.of(Failed, n) is None]
        if self.session.left() and waiting:
            raise Refused(409, "not all rounds are done")
        try:
            profile = self.session.profile()
        except DeviceError as error:
            self._abandon("done", error)
            raise Refused(409, "nothing could be measured; the reasons are below") from error
        self._ending.close()
        self.profile, self.state = profile, "done"

    @staticmethod
    def _expected(source: Source) -> list[np.ndarray]:
        return list(sample(source.bundle, source.manifest).expected.values())


def work(visit: Visit, files: dict[str, Any]) -> dict[str, Any]:
    """All that the page needs to go on with its session: what to load from where, and what is left to do.

    `files` are, by a bundle's folder, the addresses of its inputs, as `(name, dtype, shape, hash)`.
    """
    session = visit.session
    schedule = session.plan.schedule
    candidates = []
    for number, planned in enumerate(session.plan.candidates):
        source = visit.sources[number]
        candidates.append(
            {
                "number": number,
                "name": f"{planned.role} · {planned.unit}",
                "target": planned.target,
                "bundle": planned.bundle,
                "provider": planned.unit,
                "runtime": visit.runtime(number),
                "emulated": planned.obtained == "emulated",
                "model": planned.artifact_sha256,
                "bytes": planned.artifact_bytes,
                "inputs": files[str(source.bundle)],
                "outputs": [{"dtype": o.dtype, "shape": o.shape} for o in source.manifest.signature.outputs],
                "failed": visit.failed(number),
                "operators": schedule.operators and session.of(sessions.OperatorsFound, number) is None,
                "times": [t for r in session.repeats(number) for t in r.iterations_ms],
            }
        )
    return {
        "run": visit.run,
        "device": session.plan.device.model,
        "system": session.plan.device.system,
        "threads": session.plan.threads,
        "rounds": schedule.rounds,
        "done": session.rounds_done,
        "left": session.left(),
        "candidates": candidates,
        "protocol": {
            "window": protocol.WINDOW,
            "spread": protocol.SPREAD,
            "limit": protocol.WARMUP_LIMIT,
            "pause": protocol.PAUSE_S,
            "steps": CLOCK_STEPS,
            "batch": LONGEST_BATCH,
            "runs": OPERATOR_RUNS,
        },
    }
