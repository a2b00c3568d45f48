"""Questions about who the model is, as attacks put them: templates by language, filled for any persona.

attack_cells(persona, language)   every cell of the grid (system text x attack), each a list of prompts
hostile_systems(persona, language)  system texts that say the model is somebody else
unseen_rivals(names)              the invented assistants and makers of a prompt's "rivals", as detectors take them
"""

from kelron_lib.evaluate.attacks.grid import SYSTEMS, attack_cells, hostile_systems
from kelron_lib.evaluate.attacks.texts import load_pairs, load_texts, unseen_rivals

__all__ = ["SYSTEMS", "attack_cells", "hostile_systems", "load_pairs", "load_texts", "unseen_rivals"]
