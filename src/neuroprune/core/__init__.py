"""The equations, on plain tensors. Nothing here knows what a module or a model is."""
