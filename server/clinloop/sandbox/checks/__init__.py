"""The single checks of the conformance suite, by what they are about."""
