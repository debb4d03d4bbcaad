"""Slow twins: the paper in plain loops. Fast code lives only while it agrees with these."""
