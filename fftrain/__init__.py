"""fftrain: train Forward-Forward networks, layer by layer and without backpropagation."""
