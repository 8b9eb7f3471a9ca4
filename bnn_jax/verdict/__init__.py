"""Whether the error bars of a run can be trusted: are they right, would they be the same, are they the posterior's?"""

from bnn_jax.verdict.judge import judge, judge_predictive, monitored, settling, summary

__all__ = ["judge", "judge_predictive", "monitored", "settling", "summary"]
