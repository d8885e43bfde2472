"""What a swap did, and what it left alone and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Swapped:
    """One replacement.

    Attributes:
        names: the modules that now run as one, in their order, as in `model.named_modules()`.
        became: what the first of them became.
    """

    names: tuple[str, ...]
    became: str

    def __str__(self) -> str:
        return f"{' -> '.join(shown(name) for name in self.names)}: {self.became}"


@dataclass(frozen=True)
class Left:
    """One module left as it was, wholly or in part.

    Attributes:
        name: the module, as in `model.named_modules()`; "" is the model itself.
        reason: why, in words.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.name)}: {self.reason}"


@dataclass(frozen=True)
class SwapReport:
    """The result of `mer_fast.swap_layers`; its text lists both parts.

    Attributes:
        swapped: what was replaced.
        left: what was not, each with its reason.
    """

    swapped: list[Swapped] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"swapped ({len(self.swapped)})", *(f"  {entry}" for entry in self.swapped)]
        lines += [f"left ({len(self.left)})", *(f"  {entry}" for entry in self.left)]
        return "\n".join(lines)


def shown(name: str) -> str:
    return name or "(the model)"
