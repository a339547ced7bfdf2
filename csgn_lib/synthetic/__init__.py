"""The embedded benchmark: synthetic people in several outfits, rendered from a seed and stored in LTCC's layout.

A ``World`` holds the parameters of one draw of the benchmark; ``entries`` lists its pictures with labels and scenes. A
``Scene`` can be rendered again with one factor changed. Each picture has a mask of body and clothing parts (``PARTS``).
"""

from csgn_lib.synthetic.benchmarks import benchmark_for, ensure, planned_for, planned_train, world_of
from csgn_lib.synthetic.export import write_world
from csgn_lib.synthetic.garments import Outfit
from csgn_lib.synthetic.materials import PARTS
from csgn_lib.synthetic.people import Person
from csgn_lib.synthetic.scenes import Scene, draw
from csgn_lib.synthetic.words import attribute_prompts
from csgn_lib.synthetic.worlds import Entry, World, entries
