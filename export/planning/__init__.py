"""What becomes of a lowered program in each back end, found out without writing an artifact.

A planner is a function of the program that says what its back end refuses and what would leave the accelerator.
To add one: a module of this package with a function under `@plans("PREFIX")`, which plans for every target whose name
begins with that prefix and with no longer one. Every module is loaded.
"""

import pkgutil
from importlib import import_module

from export.planning.registry import Outside, Plan, Planner, Stopped, find_planner, origin, plans

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Outside", "Plan", "Planner", "Stopped", "find_planner", "origin", "plans"]
