"""The written form of a checkpoint: which files it has, the manifest that proves them, the pointer that names it.

Manifest and pointer are JSON sealed by a checksum over themselves, so that one changed bit anywhere shows.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kelron_lib.config import differing
from kelron_lib.store import DamagedFile, Store, sha256_file

FORMAT = 1
MANIFEST = "MANIFEST.json"
LATEST = "LATEST.json"
CONFIG = "config.json"
TRAINER_STATE = "trainer_state.json"
SCALER = "scaler.pt"

_MAY_BE_ABSENT = ("changes", "best_step", "best_loss")
"""Fields of a manifest that are written only where there is something in them."""
_ALWAYS = ("adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt", TRAINER_STATE)
_RNG = re.compile(r"rng_state(_(0|[1-9][0-9]{0,3}))?\.pth")
_STEP_FOLDER = re.compile(r"step-([0-9]{6,12})(-2)?")


def is_checkpoint_file(name: str) -> bool:
    """Whether a file of this name belongs to a checkpoint. Anything else is neither stored nor fetched: above all
    not training_args.bin, which only unpickling can read."""
    return name in (*_ALWAYS, SCALER, CONFIG) or _RNG.fullmatch(name) is not None


def required_files(world_size: int, fp16: bool) -> tuple[str, ...]:
    """The files without which a resumed run would silently be another run (the trainer itself misses none)."""
    ranks = range(world_size)
    rng = [f"rng_state_{rank}.pth" for rank in ranks] if world_size > 1 else ["rng_state.pth"]
    return (*_ALWAYS, *rng, *([SCALER] if fp16 else []))


def step_folder(step: int, *, second: bool = False) -> str:
    """The store folder of a step. The second name serves when LATEST names the first, which is then left alone."""
    return f"step-{step:06d}" + ("-2" if second else "")


def step_of(folder: str) -> int | None:
    """The step of a store folder, or None where the name is no step's."""
    match = _STEP_FOLDER.fullmatch(folder)
    step = int(match[1]) if match else -1
    return step if match and folder == step_folder(step, second=bool(match[2])) else None


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint as it must be."""

    size: int
    """Bytes."""
    sha256: str
    """Hex digest."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is and what it belongs to."""

    step: int
    """Optimizer steps done."""
    prefix: str
    """The store folder that it lies in; empty for files that lie at the root."""
    files: dict[str, FileRecord]
    """By name."""
    config: dict[str, Any]
    """The resolved config; empty where none was recorded."""
    config_hash: str
    data_fingerprint: str
    world_size: int
    """Processes that trained; each has its own random state."""
    fp16: bool
    """Whether a gradient scaler belongs to the state."""
    versions: dict[str, str]
    """Versions of the packages that wrote it."""
    created: str
    """UTC, ISO 8601."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Config values that were changed on the way, oldest first: `key`, `from`, `to`, and the `step` after which."""
    best_step: int | None = None
    """The step with the lowest validation loss so far; None before any validation. Its checkpoint is kept, too."""
    best_loss: float | None = None
    """That loss."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())

    def same_checkpoint(self, other: Manifest) -> bool:
        """Equal in all but the place, the time and the versions."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("step", "files", "config_hash", "data_fingerprint", "world_size", "fp16")
        )

    def encode(self) -> bytes:
        """The sealed JSON. What may be absent is left out, so that what an earlier version sealed stays the same."""
        absent = {name for name in _MAY_BE_ABSENT if getattr(self, name) in (None, [])}
        return seal({name: value for name, value in asdict(self).items() if name not in absent})

    @classmethod
    def decode(cls, raw: bytes, where: str) -> Manifest:
        """The manifest in `raw`. Raises DamagedFile, beginning with `where`, for anything but an intact one whose
        files are checkpoint files and complete."""
        record = unseal(raw, where)
        try:
            files = {name: FileRecord(**entry) for name, entry in record.pop("files").items()}
            manifest = cls(files=files, **record)
            missing = set(required_files(manifest.world_size, manifest.fp16)) - set(files)
        except (AttributeError, KeyError, TypeError) as error:
            raise DamagedFile(f"{where} is no manifest: {error}") from error
        if strange := [name for name in files if not is_checkpoint_file(name)]:
            raise DamagedFile(f"{where} names {strange[0]!r}, which is no checkpoint file")
        if missing:
            raise DamagedFile(f"{where} lacks {', '.join(sorted(missing))}")
        return manifest


@dataclass(frozen=True)
class Pointer:
    """The content of LATEST.json: the one checkpoint to resume from."""

    step: int
    prefix: str
    manifest_sha256: str

    @classmethod
    def to(cls, manifest: Manifest) -> Pointer:
        """The pointer that names a manifest."""
        return cls(manifest.step, manifest.prefix, hashlib.sha256(manifest.encode()).hexdigest())

    def encode(self) -> bytes:
        """The sealed JSON."""
        return seal(asdict(self))

    @classmethod
    def decode(cls, raw: bytes) -> Pointer:
        """The pointer in `raw`. Raises DamagedFile for anything but an intact one."""
        record = unseal(raw, LATEST)
        try:
            pointer = cls(**record)
            fits = step_of(pointer.prefix) == pointer.step
        except TypeError as error:
            raise DamagedFile(f"{LATEST} is no pointer: {error}") from error
        if not fits:
            raise DamagedFile(f"{LATEST} names {pointer.prefix!r} for step {pointer.step}")
        return pointer


def compare(manifest: Manifest, *, config: dict[str, Any], data_fingerprint: str) -> list[str]:
    """The dotted config keys, then `data_fingerprint`, in which a checkpoint differs from a run.

    Only what changes the result counts: neither the other sections nor the number of processes do. A checkpoint without
    a manifest of its own recorded no config and no data: it differs in nothing.
    """
    keys = [*differing(manifest.config, config)] if manifest.config else []
    return keys + ["data_fingerprint"] * (manifest.data_fingerprint not in ("", data_fingerprint))


def _plain_json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()


def seal(record: dict[str, Any]) -> bytes:
    """A record as JSON with a checksum over itself."""
    record = {"format": FORMAT, **record}
    return _plain_json({**record, "seal": hashlib.sha256(_plain_json(record)).hexdigest()})


def unseal(raw: bytes, where: str) -> dict[str, Any]:
    """The record in sealed JSON. Byte for byte: a reformatted file is refused as an altered one.

    Raises DamagedFile, beginning with `where`.
    """
    try:
        record = json.loads(raw)
        intact = isinstance(record, dict) and _plain_json(record) == raw
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} is not valid JSON") from error
    if not intact or record.pop("seal", "") != hashlib.sha256(_plain_json(record)).hexdigest():
        raise DamagedFile(f"{where} is altered: its checksum over itself differs")
    if (written := record.pop("format", None)) != FORMAT:
        raise DamagedFile(f"{where} has format {written}, this version reads {FORMAT}: use the version that wrote it")
    return record


def now() -> str:
    """The time as manifests record it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_files(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Sizes and digests of files in a local folder. Raises OSError where one cannot be read."""
    return {name: FileRecord((folder / name).stat().st_size, sha256_file(folder / name)) for name in sorted(names)}


def join(prefix: str, name: str) -> str:
    """The store path of a file in a folder; the empty prefix is the store's root."""
    return f"{prefix}/{name}" if prefix else name


def size_problems(store: Store, prefix: str, files: dict[str, FileRecord]) -> dict[str, str]:
    """By name, the files of a store's folder that are missing or of another size, without reading any."""
    sizes = {entry.path: entry.size for entry in store.list(prefix)}
    problems = {}
    for name, record in files.items():
        path = join(prefix, name)
        if path not in sizes:
            problems[name] = f"{path} is missing"
        elif sizes[path] != record.size:
            problems[name] = f"{path} has {sizes[path]} bytes instead of {record.size}"
    return problems


def digest_problems(
    prefix: str, files: dict[str, FileRecord], names: list[str], digest: Callable[[str], str]
) -> list[str]:
    """Those of the named files whose content, as `digest` of their store path tells, is not as recorded."""
    problems = []
    for name in names:
        path = join(prefix, name)
        try:
            if digest(path) != files[name].sha256:
                problems.append(f"{path} has changed: its sha256 differs")
        except DamagedFile as damage:
            problems.append(str(damage))
    return problems


def recorded_step(trainer_state: bytes, where: str) -> int:
    """The global step in a trainer_state.json. Raises DamagedFile, beginning with `where`, where there is none."""
    try:
        step = json.loads(trainer_state)["global_step"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{where} does not load: no JSON object with a global_step") from error
    if type(step) is not int or step < 0:
        raise DamagedFile(f"{where} has global_step {step!r}, which is no step")
    return step


def loading_problem(path: Path, where: str) -> str | None:
    """Why a checkpoint file does not load (`where` it is from, the reason), or None if it does.

    All that can be asked of a file whose digest nobody recorded.
    """
    try:
        if path.suffix == ".json":
            if not isinstance(json.loads(path.read_bytes()), dict):
                raise ValueError("no JSON object")
        elif path.suffix == ".safetensors":
            _load_safetensors(path)
        else:
            _load_torch(path)
    except Exception as error:  # a damaged file may raise anything in its parser; all of it means the same
        reason = next(iter(str(error).splitlines()), "")
        return f"{where} does not load: {type(error).__name__} {reason[:100]}".rstrip()
    return None


def _load_safetensors(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:  # checks that the header and the file's length agree
        if not file.keys():
            raise ValueError("no tensors")


def _load_torch(path: Path) -> None:
    """Checks the CRC of every record, then reads the structure; tensors stay on the disk."""
    import numpy as np
    import torch

    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} fails its CRC")
    # What numpy's random state consists of; nothing else beyond tensors and plain containers is let in.
    safe = [np._core.multiarray._reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]  # type: ignore[attr-defined]
    with torch.serialization.safe_globals(safe):
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
