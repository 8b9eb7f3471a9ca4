"""Data sets that are shipped with the package; ``ammonia.json`` says how they were made."""
