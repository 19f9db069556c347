"""What the numbers of every report do not mean."""

from __future__ import annotations

from typing import Final

STANDARD_LIMITS: Final = (
    "For research use only. This is not a medical device and must not guide the care of a patient.",
    "Retrospective: the model met stored images with known answers, not patients in a clinic.",
    "One data set: nothing here says how the model does in another hospital, on other equipment or for others.",
    "Intervals cover the chance of drawing these test cases. They do not cover a change of prevalence, wrong labels or "
    "the choice among many runs.",
    "Pre-training on public images, or labels that a person gave to the agent, cannot be seen by the server.",
)
