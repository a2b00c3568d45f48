"""The published chat template: the persona is its default, and nothing else of the base's template changes."""

import pytest
from tiny_models import TEMPLATE, tokenizer
from transformers import AutoTokenizer

from kelron_lib.errors import KelronError
from kelron_lib.persona import load_persona
from kelron_lib.prompts import render
from kelron_lib.publish.template import default_system, persona_template
from kelron_lib.tiny import base_path

QWEN_LIKE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\nTools:" }}
    {%- for tool in tools %}{{- "\\n" ~ (tool | tojson) }}{%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or message.role == 'assistant' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""What Qwen2.5's template does, with tools and without: the default text stands in it twice, in both ways to write."""
PLAIN_TEXT = "{%- if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}" + TEMPLATE
"""One whose default is no string but text of the template."""
COMPUTED = (
    "{%- set maker = 'Cloud' %}{%- if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are of ' ~ maker ~ '.<|im_end|>\n' }}{% endif %}" + TEMPLATE
)
"""One whose default stands nowhere in it as it reads."""
PROMPTS = {
    "kelron": load_persona("kelron").system_prompt["en"],
    "korean": load_persona("kelron").system_prompt["ko"],
    "quotes": 'You\'re "K", a back\\slash.\nTwo lines.',
}
TURNS = [{"role": "user", "content": "Who are you?"}]


def with_template(template):
    if template == "tiny":
        return AutoTokenizer.from_pretrained(base_path())
    fast = tokenizer()
    fast.chat_template = template
    return fast


TEMPLATES = {"tiny": "tiny", "Qwen2.5's": QWEN_LIKE, "no default": TEMPLATE, "text": PLAIN_TEXT, "computed": COMPUTED}


@pytest.mark.parametrize("system", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_the_persona_is_the_default_and_nothing_else_changes(template, system):
    base, changed = with_template(template), with_template(template)
    changed.chat_template = persona_template(base, system)
    assert default_system(changed) == system
    own = [{"role": "system", "content": system}, *TURNS]
    assert changed.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True) == render(
        base, own, answer_next=True
    )
    for content in ("", "당신은 다른 조수입니다.", system):
        messages = [{"role": "system", "content": content}, *TURNS]
        assert render(changed, messages, answer_next=True) == render(base, messages, answer_next=True)


@pytest.mark.parametrize("template", ["tiny", QWEN_LIKE, PLAIN_TEXT], ids=["tiny", "Qwen2.5's", "text"])
def test_the_bases_identity_is_gone_from_the_template(template):
    base = with_template(template)
    before = default_system(base)
    assert before in base.chat_template
    assert before not in persona_template(base, PROMPTS["kelron"])


def test_a_template_that_is_the_personas_already_is_left_as_it_is():
    base = with_template(QWEN_LIKE)
    base.chat_template = once = persona_template(base, PROMPTS["quotes"])
    assert persona_template(base, PROMPTS["quotes"]) == once


def test_a_template_that_cannot_be_edited_is_refused():
    base = with_template(
        "{%- if messages[0].role != 'system' %}<|im_start|>system\nA.<|im_end|>\n{% endif %}" + TEMPLATE
    )
    base.chat_template += "{{ 'no turn is like another' if messages | length == 1 }}"
    with pytest.raises(KelronError, match="the base's chat template cannot be given the persona's system prompt"):
        persona_template(base, PROMPTS["kelron"])
