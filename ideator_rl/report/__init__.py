"""The report of runs: one HTML file that a person reads, and that loads nothing.  See `page`."""

from ideator_rl.report.page import ReportError, write_report

__all__ = ["ReportError", "write_report"]
