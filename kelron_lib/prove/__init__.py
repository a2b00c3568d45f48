"""The proof that each fix does something: the first attempt's recipe, today's, and today's without each fix in turn."""
