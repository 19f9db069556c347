"""Backends that execute the agent's code, away from the labels it must not see."""
