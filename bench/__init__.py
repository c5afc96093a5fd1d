"""Each stage beside its peers and its floor, on real files, in one run: `python -m bench [stage …]`.

A module bench/<stage>.py holds `bench(sample) -> list[Row]`; see bench/measure.py for the values and the sample.
"""
