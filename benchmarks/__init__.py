"""Speed benchmarks, and adapters that time peers' code beside ours. Not part of the library.

``make bench-retrieval``, ``bench-train``, ``bench-gpu`` and ``bench-world`` run them.
"""
