"""Confidence intervals over people, spread over runs, paired differences between runs. Never imports torch.

`Interval` and `over_people`: the percentile bootstrap over people · `spread` over runs, `people_interval` of one
run's queries, `paired` differences, `against` a baseline with Holm's correction · `cost` and `queries` of a run.
"""

from csgn_lib.statistics.intervals import RESAMPLES, Interval, over_people
from csgn_lib.statistics.paired import (
    against,
    clusters_of,
    cost,
    holm,
    paired,
    people_interval,
    queries,
    smallest_p,
    spread,
)
