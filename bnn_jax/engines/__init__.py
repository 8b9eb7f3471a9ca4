"""A posterior inside other programs: one file for each engine, none of which is needed to import this."""
