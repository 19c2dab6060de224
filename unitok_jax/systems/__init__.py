"""The four systems, one folder each; see base.py for what a system offers."""
