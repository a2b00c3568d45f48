"""A run's result as others load it: adapter or merged weights, template, card, proof that it loads and answers."""
