"""Scores of predictions, their intervals, and the decision whether a run is kept; numbers are computed in a capped child process."""
