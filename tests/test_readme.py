"""README.ko.md says what README.md says: the demo's table, other figures, the verbs; and its links lead somewhere."""

import re

import pytest
from kaggle_image import ROOT

ENGLISH, KOREAN = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\d_])")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def verbs(page):
    return re.findall(r"^\| (`kelron [^|]*`) +\|", page, re.MULTILINE)


def test_the_demos_table_is_the_same():
    (english,), (korean,) = blocks(ENGLISH, "text"), blocks(KOREAN, "text")
    assert "Identity recall" in english
    assert korean == english, "README.ko.md shows another run of the demo than README.md: copy the block"


def test_every_other_figure_stands_in_the_english_page():
    found = set(NUMBER.findall(KOREAN.replace("500만", "5 million")))
    assert len(found) > 50
    assert found - set(NUMBER.findall(ENGLISH)) == set()


def test_the_verbs_are_the_same():
    assert len(verbs(ENGLISH)) > 10
    assert verbs(KOREAN) == verbs(ENGLISH)


def test_the_commands_are_among_the_english_ones():
    english = "".join(blocks(ENGLISH, "sh")).splitlines()
    korean = "".join(blocks(KOREAN, "sh")).splitlines()
    assert "make demo" in korean
    assert set(korean) <= set(english)


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_its_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    other = {"README.md": "README.ko.md", "README.ko.md": "README.md"}[page]
    assert f"]({other})" in "".join(text.splitlines()[:3])
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (ROOT / target).exists(), target
