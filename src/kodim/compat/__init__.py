"""Models of other programs, as codecs of kodim."""
