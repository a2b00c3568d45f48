"""What is wrong, or worth knowing, about a persona file before data is made of it."""

from kelron_lib.persona_check.report import Report, check_document, check_persona, persona_lines

__all__ = ["Report", "check_document", "check_persona", "persona_lines"]
