"""What a run found: the schema of samples, the store, the statistics, comparisons and exports.

Code only; what a run produces goes to `runs/`.  Imports nobody else of the project.  `schema` fixes names and
units, `statistics` is pure and cites its papers, `analysis` holds the frozen values that reports draw.
"""
