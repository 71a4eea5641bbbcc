"""Benchmarks of recording and of the store, run by ``make bench``.

Each benchmark is a module with one function that returns ``Measurement`` rows: ratios where a
ratio can be had, for a number of seconds says more about the machine than about the code.
"""
