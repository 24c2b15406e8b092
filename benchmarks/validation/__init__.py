"""Virtual patients whose truth another solver made, and what the twin's intervals are worth on them.

``python -m benchmarks.validation --help``
"""
