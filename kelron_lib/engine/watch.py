"""NaN and infinity in activations: found by name, at the price of one reduction a layer and one wait a step."""

from __future__ import annotations

import math
from typing import Any

import torch

from kelron_lib.errors import KelronError, RunFailed


class FiniteWatch:
    """Keeps the largest magnitude of every decoder layer's output since the last check, on the layers' device."""

    def __init__(self, layers: list[tuple[str, torch.nn.Module]], device: torch.device) -> None:
        self.names = [name for name, _ in layers]
        self._largest = torch.zeros(len(layers), dtype=torch.float32, device=device)
        self._slots = self._largest.unbind()
        self._hooks = [
            module.register_forward_hook(self._hook(self._slots[index])) for index, (_, module) in enumerate(layers)
        ]

    @staticmethod
    def _hook(slot: torch.Tensor) -> Any:
        def note(module: Any, _: Any, output: Any) -> None:
            if module.training:
                hidden = (output[0] if isinstance(output, tuple) else output).detach()
                largest = torch.linalg.vector_norm(hidden, float("inf"), dtype=torch.float32)
                torch.maximum(slot, largest.to(slot.device), out=slot)

        return note

    def check(self) -> dict[str, float]:
        """The largest magnitude of each layer's output since the last check. Waits for the device.

        Raises RunFailed naming the first layer whose output held NaN or infinity.
        """
        largest = dict(zip(self.names, self._largest.tolist(), strict=True))
        self._largest.zero_()
        for name, value in largest.items():
            if not math.isfinite(value):
                before = [float(f"{seen:.3g}") for seen in largest.values() if math.isfinite(seen)]
                raise RunFailed(
                    f"{name} gave {'NaN' if math.isnan(value) else 'infinity'} (the largest finite magnitude of any "
                    f"layer was {max(before, default=0.0)}): the run is stopped; lower train.learning_rate, or resume "
                    "from the checkpoint before"
                )
        return largest

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()


def decoder_layers(model: Any) -> list[tuple[str, Any]]:
    """Names and modules of a model's decoder layers, in order. Raises KelronError where there are none."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and name.rsplit(".", 1)[-1] == "layers" and len(module):
            return [(f"layer {index} ({type(layer).__name__})", layer) for index, layer in enumerate(module)]
    raise KelronError("this model has no decoder layers under the name `layers`: it is not of a kind Kelron trains")


def watch_finite(model: Any) -> FiniteWatch:
    """Watch the outputs of all decoder layers in training. Call `check()` once a step."""
    layers = decoder_layers(model)
    device = next(layers[0][1].parameters()).device
    return FiniteWatch(layers, device)
