"""Names of materials and of the parts that masks tell apart."""

from __future__ import annotations

MATERIALS = ("skin", "eye", "hair", "upper", "lower", "shoes", "bag", "hat", "occluder")
PARTS = ("background", "skin", "hair", "upper", "lower", "shoes", "bag", "hat", "occluder")
PART_OF_MATERIAL = (1, 1, 2, 3, 4, 5, 6, 7, 8)
GARMENTS = ("upper", "lower", "shoes", "hat")  # parts that a change of clothes changes, with the bag
