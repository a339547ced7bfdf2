"""A benchmark whose files are called 012-red-cam2-0001.jpg, and a protocol of its own."""

import re

from csgn_lib import registry
from csgn_lib.datasets import Benchmark, Protocol
from csgn_lib.datasets.files import IMAGE, find_root, list_files, parse
from csgn_lib.datasets.frames import number_clothes, number_train, raw_frame

NAME = re.compile(rf"(?P<pid>\d+)-(?P<outfit>[a-z]+)-cam(?P<camera>\d+)-\d+{IMAGE}")
EXPECTED = "<pid>-<outfit>-cam<camera>-<frame>.jpg, such as 012-red-cam2-0001.jpg"


@registry.register("benchmark", "mall")
def read(root, name):
    """Folders train, query and gallery."""
    root = find_root(root, ("train", "query", "gallery"), "Mall")
    train, query, gallery = (split(root, folder) for folder in ("train", "query", "gallery"))
    return Benchmark(name, root, number_train(train), *number_clothes(query, gallery))


def split(root, folder):
    paths = list_files(root, folder)
    names = parse(root, paths, NAME, EXPECTED)  # a name that does not fit is an error that shows it
    outfits = [f"{pid}-{outfit}" for pid, outfit in zip(names["pid"], names["outfit"], strict=True)]
    return raw_frame(paths, names["pid"], names["camera"], outfits, camera=[int(c) for c in names["camera"]])


any_camera = Protocol("any_camera", "all images; nothing is dropped", junk=())
registry.register("protocol", "any_camera", any_camera, benchmarks=("mall",))
