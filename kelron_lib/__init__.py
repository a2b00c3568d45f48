"""Kelron: give an open LLM a new identity on free GPUs."""

__version__ = "0.1.0"
