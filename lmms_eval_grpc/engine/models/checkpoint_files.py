"""A checkpoint's files: digests by which they are recognised again, and texts that may be files.

Light: imports no model library, so that it serves backends which run with any.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

WHOLE_FILE_LIMIT = 256 * 1024 * 1024
"""Files up to this size are hashed whole, in bytes."""

BLOCK = 4096
"""Bytes hashed at the start, middle and end of every tensor of a larger file."""

_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
_OTHER_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".py")
_TRAINING_LEFTOVERS = frozenset(
    {"training_args.bin", "trainer_state.json", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"}
)


_MODEL_FILES = frozenset(
    {"config.json", "generation_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json"}
)


def digest_checkpoint(folder: Path) -> str:
    """SHA-256 over the names and contents of everything that a model in ``folder`` is loaded from.

    Contents, not modification times: a copy has the same digest, a file rewritten in place within the same second has
    another. Of a safetensors file above :data:`WHOLE_FILE_LIMIT` the header (names, shapes, types) and three blocks of
    every tensor are hashed, because a training step moves every tensor; of any other file above it, 256 blocks
    spread evenly. What a Trainer leaves beside a checkpoint (optimizer, arguments) does not count.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or is_training_leftover(path.name):
            continue
        if path.suffix in _WEIGHT_SUFFIXES or path.suffix in _OTHER_SUFFIXES:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(digest_file(path))
    return digest.hexdigest()


def stamp_checkpoint(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Changes whenever a file of the checkpoint is written or replaced: names, sizes, times, inodes."""
    return tuple(
        (path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        for path in sorted(folder.iterdir())
        if path.suffix in (*_WEIGHT_SUFFIXES, *_OTHER_SUFFIXES) and not is_training_leftover(path.name)
        for stat in (path.stat(),)
    )


def is_training_leftover(name: str) -> bool:
    """Whether a file of that name is what a Trainer leaves beside a checkpoint to go on from."""
    return name in _TRAINING_LEFTOVERS or name.startswith("rng_state")


def digest_processor(folder: Path) -> str:
    """SHA-256 over the names and contents of the files in ``folder`` that a tokenizer and a processor are made of.

    That is of all small ones but those that are known to be of the model or of the training.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _OTHER_SUFFIXES and path.name not in _TRAINING_LEFTOVERS | _MODEL_FILES:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(digest_file(path))
    return digest.hexdigest()


def digest_template(template: Any) -> str | None:
    """SHA-256 of a chat template: its text, or several by name; None where there is none."""
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> bytes:
    """SHA-256 of the file's content, or of the parts of it that :func:`digest_checkpoint` tells."""
    size = path.stat().st_size
    if size <= WHOLE_FILE_LIMIT:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            (header_size,) = struct.unpack("<Q", file.read(8))
            header = file.read(header_size)
            digest.update(header)
            offsets = _block_offsets(header, 8 + header_size)
        else:
            offsets = [size * step // 256 for step in range(256)]
        for offset in offsets:
            file.seek(offset)
            digest.update(file.read(BLOCK))
    return digest.digest()


def _block_offsets(header: bytes, data_start: int) -> list[int]:
    """Positions of the first, middle and last block of every tensor, ascending."""
    offsets: set[int] = set()
    for name, entry in json.loads(header).items():
        if name != "__metadata__":
            start, end = (data_start + offset for offset in entry["data_offsets"])
            offsets.update({start, (start + end) // 2, max(start, end - BLOCK)})
    return sorted(offsets)


def read_text(text: str) -> str:
    """``text`` itself, or what stands in the file of that name."""
    try:
        return Path(text).read_text() if Path(text).is_file() else text
    except (OSError, ValueError):  # too long for a name, or with characters that no name has
        return text
