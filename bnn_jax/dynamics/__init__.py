"""Molecular dynamics of replicas in compiled loops, with the error bars of what it goes through."""
