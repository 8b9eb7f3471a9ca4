"""What an accelerator does with the package, in the minutes that there are: ``python -m benchmarks.gpu --help``."""
