"""What an app ships: a Swift package and a Kotlin module, generated from a bundle's manifest into the bundle."""

from export.sdk.sides import require_side
from export.sdk.writing import write_sdk

__all__ = ["require_side", "write_sdk"]
