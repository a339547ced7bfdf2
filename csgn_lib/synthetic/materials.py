"""Names of materials and of the parts in masks."""

from __future__ import annotations

MATERIALS = ("skin", "eye", "hair", "upper", "lower", "shoes", "bag", "hat", "occluder")
PARTS = ("background", "skin", "hair", "upper", "lower", "shoes", "bag", "hat", "occluder")
PART_OF_MATERIAL = (1, 1, 2, 3, 4, 5, 6, 7, 8)  # indices into PARTS
