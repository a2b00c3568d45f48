"""Who the model is to be, and what people wrote for it to learn from.

Files
    <persona>.yaml      who: docs/persona.md describes every field. `kelron persona new` writes one.
    defaults.yaml       what stands in for fields that a persona file leaves out.
    lexicon.yaml        language -> slot -> entries. Korean entries carry no particle.
    rivals.yaml         names that no training row may contain.
    seeds/<language>.yaml, and for the full set seeds/<language>/*.yaml besides

Schema of a seed file
    language: ko
    only_in_core: [...]     optional: ids of its seeds that the full set leaves out
    phrases:            name -> texts, or speech level (polite, casual) -> texts. {name} in a template becomes one of
                        them; phrases may use phrases and slots.
    openers, closers:   kind -> register -> texts put before or after a question of that kind and register.
    seeds:
      - id: name.who            shared by the corresponding seeds of all languages; a split never divides an id
        kind: identity          identity | business | chat
        intent: name            several ids may share an intent; splits are stratified by it
        ask:                    register (formal, polite, casual) -> question templates
          polite: [...]
          casual: [...]
        answer: [...]           answer templates, drawn independently of the question: polite ones, or by speech level
        only: {slot: [...]}     optional: the entries of a slot that make sense here, instead of the lexicon's
        frame: false            optional: no opener and no closer (greetings, for instance)
        system: [...]           optional: system messages in the place of the persona's
        then:                   optional: further turns, each with `ask` and `answer`

Templates: {slot}, {slot2} (another entry of the slot), {slot|을/를} (Korean particle by sound), {role|a} (English
article). {name}, {maker} and {role} are the persona's, and in identity seeds {ability}, {limit}, {value}, {tone} and
{fact}, whose templates are left out where it tells none. Answers may use only slots that every question of the seed up
to there has: an answer copies, it does not invent. Identity answers name the persona in some turn; business and chat
answers cannot. A further language is one more file, a further intent more entries; new keys are refused with the
nearest known one, so a typo is never ignored.
"""

from kelron_lib.persona.definition import Persona, load_persona, persona_file, persona_names
from kelron_lib.persona.josa import attach_josa, has_reading
from kelron_lib.persona.never import find_never
from kelron_lib.persona.rivals import Rival, find_rivals, rival_names, rival_of
from kelron_lib.persona.seed import KINDS, REGISTERS, Question, Seed, load_seeds
from kelron_lib.persona.templates import (
    PLACEHOLDER,
    draw_values,
    expand_phrases,
    fill,
    load_lexicon,
    persona_values,
    slots_of,
)

__all__ = [
    "KINDS",
    "PLACEHOLDER",
    "REGISTERS",
    "Persona",
    "Question",
    "Rival",
    "Seed",
    "attach_josa",
    "draw_values",
    "expand_phrases",
    "fill",
    "find_never",
    "find_rivals",
    "has_reading",
    "load_lexicon",
    "load_persona",
    "load_seeds",
    "persona_file",
    "persona_names",
    "persona_values",
    "rival_names",
    "rival_of",
    "slots_of",
]
