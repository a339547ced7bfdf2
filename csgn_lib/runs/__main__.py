"""``python -m csgn_lib.runs FOLDER RUN ...``: collect figures, results and answers of notebooks in one folder."""

import sys
from pathlib import Path

from csgn_lib.records import InputError, Run
from csgn_lib.runs import collect

try:
    print(collect(sys.argv[1], [Run(Path(name)) for name in sys.argv[2:]]))
except (InputError, IndexError) as error:
    sys.exit(f"csgn: {error if isinstance(error, InputError) else 'give a folder, and the runs to collect'}")
