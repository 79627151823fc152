"""Decoding from the middle of a video, where it can be proved which frame that is.

The index of an MP4 or QuickTime file lists every packet. A packet holds one frame, and what comes before a key frame
that cuts off all earlier references is also shown before it: the key frame's place in the index, and the number of
later packets that are shown before it, are its number. Time stamps need not be even. Other containers list key frames
only, or none, and other codecs leave out frames (MPEG-4's empty ones), so these are never sought in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain, islice
from typing import TypeAlias

import av
from av.container import InputContainer
from av.video.stream import VideoStream

CONTAINER = "mov,mp4,m4a,3gp,3g2,mj2"
PLAIN_CODECS = {"vp9", "av1", "mjpeg", "prores", "png"}  # their key frames need nothing earlier, and lead nothing
ATTEMPTS = 4  # key frames to try before giving up: an H.264 file with open groups may have no other that serves

# NAL unit types: ITU-T H.264, table 7-1; ITU-T H.265, table 7-1
H264_SLICES, H264_IDR = range(1, 6), range(5, 6)
HEVC_SLICES, HEVC_IDR, HEVC_RANDOM_ACCESS = range(32), range(19, 21), range(16, 22)

Packet: TypeAlias = "av.Packet[VideoStream]"


@dataclass(frozen=True)
class KeyFrame:
    """A key frame at `place` in the index, shown at `time`, after `leading` packets that come behind it.

    The `head` is itself, those packets, and the next one; the `rest` of the packets follows.
    """

    place: int
    time: int
    leading: int
    head: list[Packet]
    rest: Iterator[Packet]


def frames_from(container: InputContainer, stream: VideoStream, start: int) -> Iterator[av.VideoFrame]:
    """Frames `start`, `start + 1`, ... of a container just opened, decoded from a key frame close before them.

    Ends without an error where it cannot be sure of the next frame: at once where the file gives no proof, later at
    anything irregular. The caller then decodes the rest from the beginning, which also names what is wrong.
    """
    if not _is_indexed(container, stream, start):
        return
    first = next(container.demux(stream))
    if not _restarts(first, stream, is_first=True) or first.pts is None or first.dts is None:
        return
    place = start
    for _ in range(ATTEMPTS):
        key = _key_frame_before(container, stream, place, first.pts - first.dts)
        if key is None:
            return
        if _restarts(key.head[0], stream, leading=key.leading) and key.place + key.leading <= start:
            if not any(entry.is_discard for entry in islice(stream.index_entries, key.place)):
                yield from islice(_shown(chain(key.head, key.rest), key.time), start - key.place - key.leading, None)
            return
        place = min(place, key.place) - 1


def _is_indexed(container: InputContainer, stream: VideoStream, start: int) -> bool:
    """Whether the index lists every packet, and frame `start` is one of them."""
    return container.format.name == CONTAINER and 0 < start < stream.frames == len(stream.index_entries)


def _key_frame_before(container: InputContainer, stream: VideoStream, place: int, delay: int) -> KeyFrame | None:
    """A key frame near or before `place` in the index; None where there is none but the first.

    `delay` is by how much frames are shown after their turn in decoding; seeking asks for times of showing.
    """
    entries = stream.index_entries
    if not any(entries[k].is_keyframe for k in range(place, 0, -1)):
        return None
    container.seek(entries[place].timestamp + delay, stream=stream)
    packets = container.demux(stream)
    key = next(packets)
    if key.pts is None or key.dts is None:
        return None
    found = entries.search_timestamp(key.dts, any_frame=True)
    if found <= 0 or entries[found].pos != key.pos:
        return None
    head, leading = [key], 0
    for packet in packets:
        head.append(packet)
        if packet.pts is None or packet.pts > key.pts:
            break
        leading += 1
    return KeyFrame(found, key.pts, leading, head, packets)


def _restarts(packet: Packet, stream: VideoStream, *, leading: int = 0, is_first: bool = False) -> bool:
    """Whether everything shown from this key frame on decodes alike without the packets before it.

    The first packet must also give a frame for each packet, so none that leads it may be left out.
    """
    codec = stream.codec_context.codec.canonical_name
    if not packet.is_keyframe:
        return False
    if codec == "h264":
        return leading == 0 and _slice_type(packet, stream, 4, 0, 31, H264_SLICES) in H264_IDR
    if codec == "hevc":
        allowed = HEVC_IDR if is_first else HEVC_RANDOM_ACCESS
        return _slice_type(packet, stream, 21, 1, 63, HEVC_SLICES) in allowed
    return leading == 0 and codec in PLAIN_CODECS


def _slice_type(packet: Packet, stream: VideoStream, field: int, shift: int, mask: int, slices: range) -> int:
    """The type of the first NAL unit with a slice, or -1; byte `field` of the stream's header has the length's size."""
    header, content = stream.codec_context.extradata or b"", bytes(packet)
    if len(header) <= field or header[0] != 1:
        return -1
    width, at = (header[field] & 3) + 1, 0
    while at + width < len(content):
        kind = content[at + width] >> shift & mask
        if kind in slices:
            return kind
        at += width + int.from_bytes(content[at : at + width], "big")
    return -1


def _shown(packets: Iterator[Packet], first: int) -> Iterator[av.VideoFrame]:
    """The frames shown at `first` and later, as long as there is one for each packet, whole and in order."""
    awaited: list[int] = []
    is_past_head = False
    for packet in packets:
        if packet.size:
            if packet.pts is None or (is_past_head and packet.pts < first):
                return
            is_past_head |= packet.pts > first
            if packet.pts >= first:
                heappush(awaited, packet.pts)
        for frame in packet.decode():
            if frame.pts is not None and frame.pts < first:
                continue
            if frame.is_corrupt or not awaited or frame.pts != heappop(awaited):
                return
            if frame.pts == first and not frame.key_frame:
                return
            yield frame
