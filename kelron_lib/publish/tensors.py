"""A safetensors file read and changed one tensor at a time, in the memory of one tensor.

The library reads through a memory map, whose pages count as the process's, and writes only whole files at once; here
a file of many gigabytes is changed where it lies. The format: eight bytes with the header's length (little endian), the
header as JSON (name -> dtype, shape, begin and end of its bytes, counted from the header's end), then the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kelron_lib.errors import KelronError

if TYPE_CHECKING:
    from torch import Tensor

FLOATS: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The dtypes that are read here, and torch's words for them."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies, and what it is."""

    dtype: str
    """As the header has it."""
    shape: tuple[int, ...]
    start: int
    """Bytes from the file's beginning."""
    size: int
    """Bytes."""


def read_header(path: Path) -> dict[str, Place]:
    """The tensors of a safetensors file by name, in the file's order. Raises KelronError where it is damaged."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            whole = path.stat().st_size
            if not 0 < length <= whole - 8:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        places = {}
        for name, told in header.items():
            start, end = told["data_offsets"]
            if not 0 <= start <= end <= whole - 8 - length:
                raise ValueError(f"{name} is cut off")
            places[name] = Place(told["dtype"], tuple(told["shape"]), 8 + length + start, end - start)
    except OSError as error:
        raise KelronError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KelronError(f"{path} is no intact safetensors file ({error}): copy or download it again") from None
    return places


class TensorFile:
    """One safetensors file, open for reading, and for changing tensors in their places."""

    def __init__(self, path: Path, *, change: bool = False) -> None:
        self.path, self.places = path, read_header(path)
        self._file = path.open("r+b" if change else "rb")

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str) -> Tensor:
        """A float tensor, in its own dtype. Raises KelronError for another kind."""
        import torch

        place = self.places[name]
        if place.dtype not in FLOATS:
            raise KelronError(
                f"{name} in {self.path} is {place.dtype}, not a 16 or 32 bit float: name a checkpoint that is not "
                "quantised"
            )
        self._file.seek(place.start)
        raw = bytearray(self._file.read(place.size))
        return torch.frombuffer(raw, dtype=getattr(torch, FLOATS[place.dtype])).reshape(place.shape)

    def write(self, name: str, tensor: Tensor) -> None:
        """Put a tensor of the same dtype and shape in the place of one."""
        import torch

        raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert len(raw) == self.places[name].size
        self._file.seek(self.places[name].start)
        self._file.write(raw)
