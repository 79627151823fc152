"""On-device profiling: devices, the measuring protocol, the store of records, and the report.

`devices.profile` measures, `devices.compare` sets two measurements side by side, `devices.report` draws; `devices.flow`
and `devices.interpolate` use a flow student here.
"""

from devices.comparison import compare
from devices.optical_flow import flow, interpolate
from devices.profiling import profile
from devices.report.page import report

__all__ = ["compare", "flow", "interpolate", "profile", "report"]
