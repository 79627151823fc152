"""What a page says while it measures: a message each, checked before anything is done with it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from devices import protocol
from devices.browser.facts import Positive, Text
from toolkit.schema import StrictModel

LONGEST_BATCH = 10_000
MOST_OPERATORS = 1000


class Ready(StrictModel):
    """A candidate was loaded, its output sent and found right, and it was warmed up."""

    kind: Literal["ready"]
    candidate: int
    load_ms: Positive
    first_ms: Positive
    warmup_ms: Annotated[list[Positive], Field(min_length=1, max_length=protocol.WARMUP_LIMIT)]
    batch: Annotated[int, Field(ge=1, le=LONGEST_BATCH)] = 1


class Begin(StrictModel):
    """Rounds of a repeat begin after a wait."""

    kind: Literal["begin"]
    repeat: int
    waited_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Taken(StrictModel):
    """The times of round `number`, counted from 0 over all repeats; None for candidates that are not called."""

    kind: Literal["round"]
    number: int
    times_ms: list[Positive | None]


class Told(StrictModel):
    """One row of the runtime's own profile: mean ms and calls an inference of one kind of operator by one provider."""

    operator: Text
    provider: Text
    ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    calls: Annotated[int, Field(ge=1)]


class Operators(StrictModel):
    kind: Literal["operators"]
    candidate: int
    rows: Annotated[list[Told], Field(max_length=MOST_OPERATORS)]


class Trouble(StrictModel):
    """A candidate cannot be loaded or run."""

    kind: Literal["failed"]
    candidate: int
    reason: Text


class Done(StrictModel):
    kind: Literal["done"]


class GaveUp(StrictModel):
    """The page itself failed."""

    kind: Literal["gave up"]
    reason: Text


Message = Annotated[Ready | Begin | Taken | Operators | Trouble | Done | GaveUp, Field(discriminator="kind")]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)
