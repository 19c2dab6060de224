"""Suites, judges and reports."""
