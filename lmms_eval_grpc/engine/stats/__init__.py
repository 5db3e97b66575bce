"""Statistics: standard errors and confidence intervals as pure functions of numbers.

Each function says from which source its formula comes, and returns None where there is too little data, instead of a
number that looks like an answer. Knows nothing of tasks, metrics or samples.
"""
