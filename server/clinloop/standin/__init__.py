"""Stand-ins: data sets drawn by this package in the exact layout of public ones, for the demo and for tests."""

from clinloop.standin import grazpedwri, isic2019, neatx, nih_chestxray14, siim_acr

STANDINS = {
    "isic2019": isic2019.write,
    "grazpedwri": grazpedwri.write,
    "siim_acr": siim_acr.write,
    "neatx": neatx.write,
    "nih_chestxray14": nih_chestxray14.write,
}
"""Name of a stand-in -> function(out, *, images, seed, progress)."""
