"""A decoder of a few hundred weights that is fitted to one picture (Cool-chic); see :mod:`kodim.systems.overfit`."""
