"""What a student is for: what it takes and gives, and what it is trained and scored by."""

from typing import Literal

Task = Literal["video-decoder", "optical-flow"]

#: Pixels of the shorter side from which every optical-flow student takes images.
SMALLEST_SIDE = 32
