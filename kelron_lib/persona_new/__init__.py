"""A persona file from a few answers: asked in the terminal, or given as options."""
