"""Figures and HTML pages of runs, drawn from their run directories alone."""
