"""What the text detectors say of texts that nobody wrote for them: the translated messages of a system's programs.

`python tests/message_catalogues.py [/usr/share/locale]` counts, in gettext's catalogues under a folder, how many Korean
and Japanese messages are flagged though people wrote them (some are right: sentences left in English, `\\a`), and
how many messages of eight words or twelve Han letters are found to be in another language than they are held to.
"""

import gettext
import re
import sys
from pathlib import Path

from kelron_lib.evaluate.garbled import broken_chars
from kelron_lib.evaluate.language import wrong_script
from kelron_lib.repetition import loop

CHINESE = ("zh_CN", "zh_TW")
LATIN = ("fr", "de", "es", "it", "pt_BR", "nl", "vi")
_WORD = re.compile(r"[^\W\d_]{2,}")


def messages(folder, code):
    """(message, translation) pairs; names of countries and languages are no texts."""
    for path in sorted(Path(folder, code, "LC_MESSAGES").glob("*.mo")):
        if path.name.startswith("iso_"):
            continue
        try:
            with path.open("rb") as file:
                catalogue = gettext.GNUTranslations(file)._catalog
        except UnicodeDecodeError as error:
            print(f"{path.name} left out: {error.reason}", file=sys.stderr)
            continue
        for message, said in catalogue.items():
            if isinstance(message, str) and message and said.strip() and said != message:
                yield message, said


def is_prose(text):
    """Eight words in a line without the signs of options and of values to fill in."""
    return len(_WORD.findall(text)) >= 8 and not re.search(r"%|--|\n|\[", text)


def share(texts, language):
    found = [wrong_script(text, language) for text in texts]
    return f"{sum(found)} of {len(found)}" + (f" ({sum(found) / len(found):.1%})" if found else "")


def main(folder):
    for code in ("ko", "ja"):
        said = [text for _, text in messages(folder, code)]
        wrong, broken, looping = (
            sum(wrong_script(text, code) for text in said),
            sum(broken_chars(text) for text in said),
            sum(loop(text) for text in said),
        )
        print(f"{code}: {len(said)} messages; wrong script {wrong}, broken characters {broken}, loop {looping}")
    for code in CHINESE:
        said = [text for _, text in messages(folder, code) if len(re.findall("[\u4e00-\u9fff]", text)) >= 12]
        print(f"{code} held to ja: found {share(said, 'ja')}")
    english = list(dict.fromkeys(message for message, _ in messages(folder, "ja") if is_prose(message)))
    for language in ("ko", "ja", "en"):
        print(f"English held to {language}: found {share(english, language)}")
    for code in LATIN:
        said = [text for _, text in messages(folder, code) if is_prose(text)]
        print(f"{code} held to en: found {share(said, 'en')}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/locale")
