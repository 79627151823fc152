"""Rules in data form that say where Core ML is planned to run an operator: what the keys of `coreml_rules.yaml` mean.

A rule looks at an operator's kind, types, shapes and constant attributes, never at names that a model chose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from coremltools.converters.mil.mil import Operation, Var, types
from pydantic import Field

from toolkit.schema import StrictModel, read_yaml, validate

FILE = Path(__file__).with_name("coreml_rules.yaml")
REFUSED = "refused"


class Values(StrictModel):
    """What is asked of a constant attribute, each of whose numbers is looked at: that one of them ..."""

    above: float | None = None
    any_of: list[str | int] = []
    none_of: list[str | int] = []

    def hold(self, value: Any) -> bool:
        """Whether one of the values is above the limit, among `any_of`, or not among `none_of`."""
        found: list[Any] = [value] if isinstance(value, str) else np.ravel(value).tolist()
        return (
            (self.above is not None and any(item > self.above for item in found))
            or any(item in self.any_of for item in found)
            or (bool(self.none_of) and any(item not in self.none_of for item in found))
        )


class Condition(StrictModel):
    """What must hold of an operator; axes count from the last one, which is -1.

    `dtypes` of an output, `any_dtypes` of any tensor; `rank_above` and `axis_above` of any tensor but a constant;
    `shapes_above` of the input so called; `attributes` are constant inputs; `computed` inputs are not constant;
    `padded_axis` is one that a `pad` adds to.
    """

    dtypes: list[str] = []
    any_dtypes: list[str] = []
    rank_above: int | None = None
    axis_above: dict[int, int] = {}
    shapes_above: dict[str, dict[int, int]] = {}
    attributes: dict[str, Values] = {}
    computed: list[str] = []
    padded_axis: int | None = Field(default=None, lt=0)

    def holds(self, operation: Operation) -> bool:
        """Whether all of it is true of an operator of an ML program."""
        given, tensors = operation.inputs, list(_tensors(operation))
        named = {name: list(_variables(given.get(name))) for name in (*self.shapes_above, *self.computed)}
        return (
            (not self.dtypes or any(_dtype(output) in self.dtypes for output in operation.outputs))
            and (not self.any_dtypes or any(_dtype(tensor) in self.any_dtypes for tensor in tensors))
            and (self.rank_above is None or any(len(tensor.shape) > self.rank_above for tensor in tensors))
            and (not self.axis_above or any(_exceeds(tensor, self.axis_above) for tensor in tensors))
            and all(any(_exceeds(v, limits) for v in named[name]) for name, limits in self.shapes_above.items())
            and all(_constant(given.get(name), values) for name, values in self.attributes.items())
            and all(named[name] and all(v.val is None for v in named[name]) for name in self.computed)
            and (self.padded_axis is None or _pads(operation, self.padded_axis))
        )


class Rule(StrictModel):
    """One line of knowledge: which operators leave the Neural Engine, when, for which unit, and who says so."""

    id: str
    operators: list[str] = Field(min_length=1)
    except_operators: list[str] = []
    when: Condition = Condition()
    to: Literal["CPU", "GPU or CPU", "refused"]
    up_to: str | None = Field(default=None, pattern=r"^A\d+$")
    reason: str
    source: str = Field(min_length=10)
    confidence: Literal["high", "medium", "low"]

    def applies(self, operation: Operation) -> bool:
        """Whether the rule speaks of this operator."""
        kind = operation.op_type
        among = ("*" in self.operators or kind in self.operators) and kind not in self.except_operators
        return among and self.when.holds(operation)

    def reaches(self, chip: str) -> bool:
        """Whether the rule still holds on a chip, such as `A14`."""
        return self.up_to is None or int(self.up_to[1:]) >= int(chip[1:])

    def said(self) -> str:
        """The reason, with the chips it is limited to."""
        return self.reason if self.up_to is None else f"{self.reason} (up to {self.up_to})"


class Rules(StrictModel):
    """All rules in their order, and the oldest chip that they are asked about."""

    baseline: str = Field(pattern=r"^A\d+$")
    rules: list[Rule]

    def first(self, operation: Operation) -> Rule | None:
        """The rule to name for an operator: the most trusted one that holds on the baseline chip, or else any."""
        found = [rule for rule in self.rules if rule.applies(operation)]
        order = {"high": 0, "medium": 1, "low": 2}
        return min(found, key=lambda rule: (not rule.reaches(self.baseline), order[rule.confidence]), default=None)


@cache
def load_rules() -> Rules:
    """The rules as shipped; raises `UserError` where the file does not fit the schema."""
    return validate(Rules, read_yaml(FILE), str(FILE))


def _variables(value: Any) -> Iterator[Var]:
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, Var):
            yield item


def _tensors(operation: Operation) -> Iterator[Var]:
    """What an operator computes on and gives: not its constants, which are attributes and weights."""
    for value in operation.inputs.values():
        yield from (variable for variable in _variables(value) if variable.val is None)
    yield from operation.outputs


def _dtype(variable: Var) -> str:
    return str(types.builtin_to_string(variable.dtype))


def _exceeds(variable: Var, limits: dict[int, int]) -> bool:
    shape: Sequence[Any] = variable.shape
    return any(
        len(shape) >= -axis and isinstance(shape[axis], int | np.integer) and shape[axis] > limit
        for axis, limit in limits.items()
    )


def _constant(value: Any, asked: Values) -> bool:
    return isinstance(value, Var) and value.val is not None and asked.hold(value.val)


def _pads(operation: Operation, axis: int) -> bool:
    """MIL's `pad` lists before and after of the last axes, as many as it names."""
    amounts = operation.inputs["pad"].val if operation.op_type == "pad" else None
    if amounts is None or len(amounts) < -2 * axis:
        return False
    return bool(np.any(np.asarray(amounts).reshape(-1, 2)[axis] != 0))
