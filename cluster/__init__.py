"""Running supernet training, searches and retraining on Ray."""
