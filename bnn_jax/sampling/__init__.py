"""Markov chain Monte Carlo over pytrees: kernel, mass adaptation, schedules and diagnostics. Knows no atoms."""
