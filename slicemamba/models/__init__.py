"""The network, the supernet that holds all its slicings, and their checkpoints."""
