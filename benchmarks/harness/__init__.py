"""What the benchmarks share: random models in exact shapes, the fixed samples, measurement."""
