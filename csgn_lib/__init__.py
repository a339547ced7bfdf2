"""CSGN Workbench: clothes-changing person re-identification with CLIP.

Import the room you need (``from csgn_lib import retrieval``); importing the package alone is free.
"""

__version__ = "0.1.0"
