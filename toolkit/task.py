"""What a student is for: what it takes and gives, and what it is trained and scored by."""

from typing import Literal

Task = Literal["video-decoder", "optical-flow"]

#: Of images for optical flow: pixels of the shorter side from which every student takes them.
SMALLEST_SIDE = 32
