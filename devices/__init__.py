"""On-device profiling: devices, the measuring protocol, the store of records, and the report.

`devices.profile` measures, `devices.report` draws.
"""

from devices.profiling import profile
from devices.report import report

__all__ = ["profile", "report"]
