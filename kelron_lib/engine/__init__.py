"""The training step: packed rows, fused LoRA over 4-bit layers, a loss without logits, a model made ready for it."""
