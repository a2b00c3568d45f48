"""Similar texts: Jaccard's measure over the sets of their character 3-grams, exact, by way of dense products.

Every text becomes a row of counts: how many of its 3-grams fall into each of a few thousand bins. The product of two
such rows is at least the number of 3-grams that the texts share, so a pair whose product is too small for the threshold
is out; the few pairs that are left are compared as sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

THRESHOLD = 0.5
LONGEST = 4_000
"""Characters of a text that are compared."""
_BLOCK = 512
"""Texts that are looked at together."""
_CHUNK = 8_192
"""Texts that a block is held against at a time."""
_LEAST_BINS, _MOST_BINS = 1_024, 8_192
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiplying by it spreads neighbouring codes (Fibonacci hashing)."""
_SLACK = 1e-6


def ngram_codes(text: str, size: int) -> Any:
    """The character n-grams of a text (n <= 3) in order, as int64: 21 bits a character, so that no two are one."""
    import numpy as np

    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
    count = max(0, len(letters) - size + 1)
    codes = np.zeros(count, dtype=np.int64)
    for place in range(size):
        codes = (codes << 21) | letters[place : place + count]
    return codes


def trigrams(text: str) -> Any:
    """The sorted set of the character 3-grams of a text's first LONGEST characters, as int64.

    A shorter text than three characters is one 3-gram, filled up.
    """
    import numpy as np

    return np.unique(ngram_codes(text[:LONGEST].ljust(3, "\0"), 3))


def jaccard_of(first: Any, second: Any) -> float:
    """Jaccard's measure of two sorted sets of `trigrams`."""
    import numpy as np

    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def jaccard(one: str, other: str) -> float:
    """Shared character 3-grams over all character 3-grams of two texts."""
    return jaccard_of(trigrams(one), trigrams(other))


def _bins_for(texts: Sequence[str]) -> int:
    """A power of two, about four times the 3-grams of nearly all texts: unrelated texts then share few bins."""
    sizes = sorted(min(len(text), LONGEST) for text in texts[:: len(texts) // 1_000 + 1])
    most = sizes[int(0.9 * (len(sizes) - 1))] if sizes else 0
    return min(_MOST_BINS, max(_LEAST_BINS, 1 << (4 * most).bit_length()))


@dataclass(frozen=True)
class _Block:
    sets: list[Any]
    sizes: Any
    """int64 (texts,)."""
    counts: Any
    """uint16 (texts, bins)."""


def _block(texts: Sequence[str], bins: int) -> _Block:
    import numpy as np

    sets = [trigrams(text) for text in texts]
    sizes = np.array([len(found) for found in sets], dtype=np.int64)
    hashed = np.concatenate(sets).astype(np.uint64) * np.uint64(_GOLDEN) >> np.uint64(65 - bins.bit_length())
    places = hashed.astype(np.int64) + np.repeat(np.arange(len(texts)) * bins, sizes)
    counts = np.bincount(places, minlength=len(texts) * bins).reshape(len(texts), bins)
    return _Block(sets, sizes, counts.astype(np.uint16))


class _Pool:
    """Texts to compare with: a chunk at a time, two bytes a bin."""

    def __init__(self, bins: int, threshold: float) -> None:
        self.bins = bins
        self.threshold = threshold
        self._share = threshold / (1 + threshold)  # J >= t is: shared 3-grams >= t / (1 + t) of both sizes together
        self.texts: list[str] = []
        self._chunks: list[list[Any]] = []
        """[counts, sizes] each, of up to _CHUNK texts."""

    def add(self, texts: Sequence[str], counts: Any, sizes: Any) -> None:
        import numpy as np

        if not texts:
            return
        self.texts += texts
        if self._chunks and len(self._chunks[-1][1]) + len(texts) <= _CHUNK:
            last = self._chunks[-1]
            last[0], last[1] = np.vstack([last[0], counts]), np.concatenate([last[1], sizes])
        else:
            self._chunks.append([counts, sizes])

    def _bounds(self, block: _Block) -> Iterator[tuple[int, Any, Any]]:
        """For every chunk: the index of its first text, the products with the block, and both sizes together."""
        import numpy as np

        rows, start = block.counts.astype(np.float32), 0
        for counts, sizes in self._chunks:
            yield start, rows @ counts.astype(np.float32).T, block.sizes[:, None] + sizes[None, :]
            start += len(sizes)

    def candidates(self, block: _Block) -> list[list[tuple[float, int]]]:
        """For each text of the block what it may be similar to: (at most this Jaccard, index), the likeliest first."""
        import numpy as np

        found: list[list[tuple[float, int]]] = [[] for _ in block.sets]
        for start, products, both in self._bounds(block):
            places = np.argwhere(products >= self._share * both - _SLACK)
            for row, column in places.tolist():
                shared = min(float(products[row, column]), both[row, column] / 2)
                found[row].append((shared / (both[row, column] - shared), start + column))
        for pairs in found:
            pairs.sort(key=lambda pair: (-pair[0], pair[1]))
        return found

    def likeness(self, found: Any, index: int) -> float:
        return jaccard_of(found, trigrams(self.texts[index]))


def _blocks(texts: Sequence[str], bins: int) -> Iterator[tuple[int, _Block]]:
    for start in range(0, len(texts), _BLOCK):
        yield start, _block(texts[start : start + _BLOCK], bins)


def similar_to_earlier(texts: Sequence[str], threshold: float = THRESHOLD) -> list[int | None]:
    """For each text the index of an earlier one that counts and is similar (Jaccard >= threshold), or None.

    A text counts where none is: greedy, in order. So `.count(None)` is the effective number of texts.
    """
    places: dict[str, int] = {}
    result: list[int | None] = [None] * len(texts)
    for index, text in enumerate(texts):
        first = places.setdefault(text, index)
        result[index] = None if first == index else first
    distinct, indices = list(places), list(places.values())
    pool, counted = _Pool(_bins_for(distinct), threshold), list[int]()
    for start, block in _blocks(distinct, pool.bins):
        own = _Pool(pool.bins, threshold)
        own.add(distinct[start : start + _BLOCK], block.counts, block.sizes)
        beside = own.candidates(block)
        new, fresh = list[int](), set[int]()
        for row, earlier in enumerate(pool.candidates(block)):
            pairs = [(bound, counted[index], index, pool) for bound, index in earlier]
            pairs += [(bound, indices[start + i], i, own) for bound, i in beside[row] if i in fresh]
            pairs.sort(key=lambda pair: (-pair[0], pair[1]))
            for _, index, place, source in pairs:
                if source.likeness(block.sets[row], place) >= threshold - _SLACK:
                    result[indices[start + row]] = index
                    break
            else:
                new.append(row)
                fresh.add(row)
        pool.add([distinct[start + row] for row in new], block.counts[new], block.sizes[new])
        counted += [indices[start + row] for row in new]
    # What repeats a text that is itself similar to an earlier one is similar to that one.
    return [index if index is None or result[index] is None else result[index] for index in result]


class Others:
    """Texts that others are compared with, made ready once."""

    def __init__(self, texts: Sequence[str], threshold: float = THRESHOLD) -> None:
        self._pool = _Pool(_bins_for(texts), threshold)
        for start, block in _blocks(texts, self._pool.bins):
            self._pool.add(texts[start : start + _BLOCK], block.counts, block.sizes)

    def similar(self, texts: Sequence[str]) -> list[tuple[int, float] | None]:
        """For each text the most similar of the others, (index, Jaccard), or None where all are below the threshold."""
        pool, result = self._pool, list[tuple[int, float] | None]()
        for _, block in _blocks(texts, pool.bins):
            for found, pairs in zip(block.sets, pool.candidates(block), strict=True):
                best: tuple[int, float] | None = None
                for bound, index in pairs:
                    if best is not None and bound <= best[1]:
                        break
                    if (likeness := pool.likeness(found, index)) >= max(
                        pool.threshold - _SLACK, best[1] if best else 0.0
                    ):
                        best = (index, likeness)
                result.append(best)
        return result


def similar_to_others(
    texts: Sequence[str], others: Sequence[str], threshold: float = THRESHOLD
) -> list[tuple[int, float] | None]:
    """For each text the most similar of the others, (index, Jaccard), or None where all are below the threshold."""
    return Others(others, threshold).similar(texts)
