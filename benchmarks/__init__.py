"""Speed benchmarks, and adapters that time the code of other projects. Not part of the library.

``python -m benchmarks.retrieval`` and ``python -m benchmarks.training``, or ``make bench-retrieval bench-train``.
"""
