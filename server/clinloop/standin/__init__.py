"""Stand-ins: data sets drawn by this package in the exact layout of public ones, for the demo and for tests."""

from clinloop.standin import grazpedwri, isic2019

STANDINS = {
    "isic2019": isic2019.write,
    "grazpedwri": grazpedwri.write,
}
"""Name of a stand-in -> function(out, *, images, seed, progress)."""
