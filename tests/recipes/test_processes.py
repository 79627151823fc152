"""What processes agree on; tests/recipes/test_distributed.py has several of them."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from lightning_fabric import Fabric

from recipes import processes
from recipes.schema import TrainerSpec
from toolkit.errors import UserError


def test_half_precision_is_refused_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"trainer\.precision: 16-mixed needs a GPU .* use auto or bf16-mixed"):
        processes.start(TrainerSpec(precision="16-mixed"))


def test_more_devices_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"trainer\.devices: 3 were asked for and this machine has 2; use auto"):
        processes.start(TrainerSpec(precision="32-true", devices=3))


def test_nodes_with_different_numbers_of_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "3"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="one --nproc-per-node for all"):
        processes.start(TrainerSpec(precision="32-true"))


@pytest.mark.parametrize(("rank", "first"), [("0", True), ("1", False)])
def test_before_there_is_a_group_the_launcher_says_who_is_first(
    monkeypatch: pytest.MonkeyPatch, rank: str, first: bool
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("RANK", "7")  # another launcher's, which is not asked
    assert processes.is_first() == first
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert not processes.is_first()
    monkeypatch.setenv("RANK", "0")
    assert processes.is_first()


def test_one_process_alone_raises_its_own_error() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as caught, processes.together(fabric):
        raise full
    assert caught.value is full
