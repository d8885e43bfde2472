"""A rectangle of pixels."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """Columns x to x + width and rows y to y + height of a frame, in pixels, ends not included."""

    x: int
    y: int
    width: int
    height: int

    def clipped(self, width: int, height: int) -> Box:
        """The part that lies in a frame of that size; its width or height is 0 when there is none."""
        left, top = max(self.x, 0), max(self.y, 0)
        right, bottom = min(self.x + self.width, width), min(self.y + self.height, height)
        return Box(left, top, max(right - left, 0), max(bottom - top, 0))

    def square(self, scale: float = 1.0) -> Box:
        """A square about the same centre, its side `scale` times the longer one; it may reach out of the frame."""
        side = max(1, round(max(self.width, self.height) * scale))
        return Box(round(self.x + (self.width - side) / 2), round(self.y + (self.height - side) / 2), side, side)

    def moved_inside(self, width: int, height: int) -> Box:
        """Moved by as little as it takes to lie in a frame of that size, and cut only where it is larger than the frame."""
        box_width, box_height = min(self.width, width), min(self.height, height)
        left = min(max(self.x, 0), width - box_width)
        top = min(max(self.y, 0), height - box_height)
        return Box(left, top, box_width, box_height)

    def overlap(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        common = max(width, 0) * max(height, 0)
        union = self.width * self.height + other.width * other.height - common
        return common / union if union else 0.0

    def slices(self) -> tuple[slice, slice]:
        """Indexes the box's pixels: `frame[box.slices()]`."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)
