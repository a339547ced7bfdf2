"""A rendered world: three-dimensional people, clothes, places and cameras, with masks and counterfactuals.

Needs torch, NumPy and Pillow. ``body.safetensors`` holds the bodies (build_body.py made it from CC0 data).
"""
