"""What every room of Handheld shares: students, blocks, bundles, metrics, video files and errors."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("handheld")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0+unknown"
