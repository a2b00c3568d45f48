"""Text files that others made, as text: which encoding they are in, and what is no text, told by its line."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kelron_lib.errors import KelronError

MOST_TEXT = 1 << 22
"""Characters of a line, or of one element of a JSON list, from which on it is no row of a chat."""
_BLOCK = 1 << 16
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8 with a byte order mark"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_NO_TEXT = (
    (b"PK\x03\x04", "a zip archive or an Excel file: unpack it, or save it as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Office file: save it as CSV in UTF-8"),
    (b"\x1f\x8b", "gzip: unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd: unpack it with unzstd"),
    (b"PAR1", "a Parquet file: write its rows as JSON lines, or name the folder if it is a dataset of Kelron's"),
    (b"%PDF", "a PDF: write its questions and answers as CSV"),
    (b"SQLite format 3", "a database: export the table as CSV"),
    (codecs.BOM_UTF32_LE, "UTF-32: convert it with `{utf32}`"),
    (codecs.BOM_UTF32_BE, "UTF-32: convert it with `{utf32}`"),
)
"""First bytes of what people take for a chat file, and what to do."""
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\f"))
_SURE = 0.7
"""Share of a line's letters that have to be of its language for a guess at its encoding."""


def into_utf8(path: Path, codec: str) -> str:
    """The command that writes the file in UTF-8 beside itself."""
    into = path.with_name(f"{path.stem}.utf8{path.suffix}")
    return f"iconv -f {codec} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(into))}"


@dataclass(frozen=True)
class TextFile:
    """A text file that can be read as often as one likes, a block at a time."""

    path: Path
    codec: str
    encoding: str
    """For people."""
    start: int
    """Bytes of the byte order mark."""

    def blocks(self) -> Iterator[str]:
        """The text, in pieces. Raises KelronError, with the line, for bytes that are no text in this encoding."""
        decoder, line, told = codecs.getincrementaldecoder(self.codec)(), 1, False
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                while raw := file.read(_BLOCK):
                    try:
                        text = decoder.decode(raw)
                    except UnicodeDecodeError as error:
                        raise self._undecodable(error, line, told) from None
                    if "\0" in text:
                        at = line + text[: text.index("\0")].count("\n")
                        raise KelronError(f"{self.path}:{at}: a NUL byte: take it out with `tr -d '\\000'`")
                    yield text
                    line += text.count("\n")
                    told = told or not text.isascii()
        except OSError as error:
            raise KelronError(f"cannot read {self.path}: {error.strerror or error}") from None
        if decoder.getstate()[0]:
            raise KelronError(f"{self.path}:{line}: the file is cut off inside a letter: get it again, whole")

    def lines(self, most: int | None = MOST_TEXT) -> Iterator[tuple[int, str]]:
        """Lines with their numbers, from 1, and their line ends: U+2028 and the like are none. One of over `most`
        characters, where that is not None, is refused."""
        number, rest = 0, ""
        for block in self.blocks():
            *whole, rest = (rest + block).split("\n")
            for text in whole:
                number += 1
                yield number, text + "\n"
            if most is not None and len(rest) > most:
                raise KelronError(
                    f"{self.path}:{number + 1}: the line has over {most:,} characters: put one row on a line"
                )
        if rest:
            yield number + 1, rest

    def _undecodable(self, error: UnicodeDecodeError, line: int, told: bool) -> KelronError:
        """`line`: where the block begins; `told`: the lines before hold letters that are right."""
        good = error.object[: error.start].decode(self.codec)
        where = f"{self.path}:{line + good.count(chr(10))}"
        if self.codec != "utf-8":
            return KelronError(f"{where}: no UTF-16 in spite of the byte order mark: save the file again as UTF-8")
        raw = error.object
        begin, end = raw.rfind(b"\n", 0, error.start) + 1, raw.find(b"\n", error.start)
        found = _guess(raw[begin : len(raw) if end < 0 else end])
        if found is None:
            return KelronError(f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x}): save the file again as UTF-8")
        codec, words = found
        convert = into_utf8(self.path, codec)
        if told or not good.rpartition("\n")[0].isascii():  # in the line itself, two bytes may be a letter by chance
            return KelronError(
                f"{where}: two encodings in one file: the letters before are UTF-8, this line reads as {codec} "
                f"({words}): convert the part that came from there by itself, with `iconv -f {codec} -t UTF-8`"
            )
        return KelronError(f"{where}: not UTF-8 but, as it reads, {codec} ({words}): convert it with `{convert}`")


def open_text(path: Path, *, row: str = "a row") -> TextFile:
    """The text file at `path`. Raises KelronError for one that is missing, a folder, empty or no text; `row`: what its
    lines hold."""
    if path.is_dir():
        raise KelronError(f"{path} is a folder and holds no dataset of Kelron's: name a file")
    try:
        with path.open("rb") as file:
            head = file.read(8192)
    except FileNotFoundError:
        raise KelronError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise KelronError(f"cannot read {path}: {error.strerror or error}") from None
    if not head:
        raise KelronError(f"{path} is empty: put {row} on every line")
    for magic, words in _NO_TEXT:
        if head.startswith(magic):
            raise KelronError(f"{path} is {words.replace('{utf32}', into_utf8(path, 'UTF-32'))}")
    for mark, codec, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return TextFile(path, codec, encoding, len(mark))
    for first, codec in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if head[first::2].count(0) > 0.3 * len(head[first::2]) and head[1 - first :: 2].count(0) < 0.05 * len(head):
            raise KelronError(
                f"{path} looks like UTF-16 without a byte order mark: convert it with `{into_utf8(path, codec)}`"
            )
    if len(head) - len(head.translate(None, _CONTROLS)) > 0.05 * len(head):
        raise KelronError(f"{path} is binary, no text: name a JSON lines, JSON or CSV file")
    return TextFile(path, "utf-8", "UTF-8", 0)


def _is_common_korean(char: str) -> bool:
    """Whether a letter is among the 2,350 syllables of KS X 1001, which all but rare words are written with, or one
    of today's single letters (ㅋㅋ, ㅠㅠ): Japanese has kana there, and many of them read as letters of old Korean.
    """
    if "ㄱ" <= char <= "ㅣ":
        return True
    try:
        return "가" <= char <= "힣" and len(char.encode("euc_kr")) == 2
    except UnicodeEncodeError:
        return False


def _is_japanese(char: str) -> bool:
    return "ぁ" <= char <= "ヺ" or char in "ー、。「」" or "一" <= char <= "鿿"


_GUESSES: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("CP949", "Korean Windows", _is_common_korean),
    ("SHIFT_JIS", "Japanese Windows", _is_japanese),
    ("EUC-JP", "Japanese Unix", _is_japanese),
)


def _guess(raw: bytes) -> tuple[str, str] | None:
    """The encoding that a line reads in, by iconv's name, and whose it is."""
    best: tuple[float, str, str] = (0.0, "", "")
    for codec, words, is_letter in _GUESSES:
        try:
            letters = [char for char in raw.decode("cp932" if codec == "SHIFT_JIS" else codec) if not char.isascii()]
        except UnicodeDecodeError:
            continue
        share = sum(map(is_letter, letters)) / max(1, len(letters))
        if codec == "EUC-JP" and not any("ぁ" <= char <= "ヺ" for char in letters):
            continue  # Korean reads as Han letters in it
        if share > best[0]:
            best = (share, codec, words)
    if best[0] >= _SURE:
        return best[1], best[2]
    if sum(byte > 127 for byte in raw) < 0.2 * len(raw):
        return "CP1252", "Western Windows"
    return None
