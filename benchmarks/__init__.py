"""Speed benchmarks, and adapters that time the code of other projects. Not part of the library.

``make bench-retrieval``, ``bench-train``, ``bench-gpu`` and ``bench-world`` run them.
"""
