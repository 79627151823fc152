"""The processes of a run: who launched them, what they agree on, and which of them speaks.

Processes that were given different work (samples, held-out clips) must take the same turns, or they wait for each
other for ever. So what fails in one fails in all, and only the first prints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from recipes.schema import TrainerSpec
from toolkit import progress
from toolkit.errors import HandheldError, UserError

T = TypeVar("T")


def start(spec: TrainerSpec) -> Fabric:
    """Fabric on the devices that `spec` or torchrun names, launched; processes behind the first show no progress.

    Raises `UserError` where torchrun's processes are not what the recipe says or not as many on every node, and for
    devices or a precision that this machine does not have.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else int(torch.backends.mps.is_available())
    if spec.precision == "16-mixed" and not gpus:
        raise UserError("trainer.precision: 16-mixed needs a GPU and this machine has none; use auto or bf16-mixed")
    devices, nodes = _torchrun(spec.devices) if TorchElasticEnvironment.detect() else (spec.devices, 1)
    if devices != "auto" and 0 < gpus < int(devices):  # of processors, any number of processes share one
        raise UserError(f"trainer.devices: {devices} were asked for and this machine has {gpus}; use auto")
    fabric = Fabric(devices=devices, num_nodes=nodes, precision=spec.precision)  # type: ignore[arg-type]
    fabric.launch()
    if not fabric.is_global_zero:
        progress.console.quiet = True
    return fabric


def is_first() -> bool:
    """Whether this is the process that prints; before there is a group of them, its launcher says so."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return int(os.environ.get("RANK" if TorchElasticEnvironment.detect() else "LOCAL_RANK", "0")) == 0


def silent_exit_code(error: HandheldError | OSError) -> int:
    """What a process behind the first ends with after an error of all, which the first one prints.

    Copies of a command that Fabric started end with 0, or it would kill the first in the middle of its line.
    """
    if not TorchElasticEnvironment.detect():
        return 0
    return error.exit_code if isinstance(error, HandheldError) else UserError.exit_code


def gather(fabric: Fabric, mine: T) -> list[T]:
    """What every process has, in order of rank; in all of them."""
    if fabric.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def gather_to_first(fabric: Fabric, mine: T) -> list[T]:
    """The same in the first process alone, and nothing in the others: for what is large."""
    if fabric.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * fabric.world_size if fabric.is_global_zero else []
    torch.distributed.gather_object(mine, everyone if fabric.is_global_zero else None, dst=0)
    return everyone


def in_order(fabric: Fabric, mine: list[T]) -> list[T]:
    """One list, in all processes, of what was dealt to them in turn: `mine` holds places r, r + w, ... of w shares."""
    shares = gather(fabric, mine)
    return [share[row] for row in range(len(shares[0])) for share in shares if row < len(share)]


def mean(fabric: Fabric, values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over all processes; not finite in all where it is not in one."""
    if fabric.world_size == 1:
        return values
    sums = torch.tensor(list(values.values()), dtype=torch.float64, device=fabric.device)
    torch.distributed.all_reduce(sums)
    return dict(zip(values, (sums / fabric.world_size).tolist(), strict=True))


def any_of(fabric: Fabric, mine: bool) -> bool:
    """Whether it is so in one process at least."""
    return mean(fabric, {"": float(mine)})[""] > 0


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """What fails inside in one process is raised in all of them; none goes on before all are through."""
    failure: HandheldError | OSError | None = None
    try:
        yield
    except (HandheldError, OSError) as error:
        failure = error
    if any_of(fabric, failure is not None):
        raise next(filter(None, gather(fabric, failure)))


def _torchrun(devices: int | str) -> tuple[int, int]:
    """How many processes torchrun started on each node, and how many nodes there are."""
    here, nodes, all_of_them = (int(os.environ[f"{name}WORLD_SIZE"]) for name in ("LOCAL_", "GROUP_", ""))
    if devices not in ("auto", here):
        raise UserError(
            f"trainer.devices: torchrun started {here} processes on this node, the recipe says {devices}; "
            "use --set trainer.devices=auto"
        )
    if here * nodes != all_of_them:
        raise UserError("torchrun: nodes with different numbers of processes; use one --nproc-per-node for all")
    return here, nodes
