"""Analysis of trained models: `probes` of embeddings, and `attribution` of a similarity to image regions."""
