"""Which of NVIDIA's GPUs each run has. Its libraries look at these variables; nothing keeps a run from others."""

from batchyard.agent.launcher.ledger import Fence

VARIABLES = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_NONE = ("void", "")


class Gpus:
    """The GPUs of this host by their number, and who has them."""

    def __init__(self) -> None:
        self._held: dict[Fence, list[int]] = {}

    def take(self, fence: Fence, count: int, total: int) -> dict[str, str]:
        """Give a run as many as it needs, of all that there are; return the variables that tell it."""
        if not total:
            return {}
        taken = {number for numbers in self._held.values() for number in numbers}
        numbers = [number for number in range(total) if number not in taken][:count]
        if not numbers:
            return dict(zip(VARIABLES, _NONE, strict=True))
        self._held[fence] = numbers
        return dict.fromkeys(VARIABLES, ",".join(map(str, numbers)))

    def give_back(self, fence: Fence) -> None:
        """Take back what a run had, if it had any."""
        self._held.pop(fence, None)
