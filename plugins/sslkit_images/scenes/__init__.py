"""Scenes rendered by code: a data set that needs no download and shows nobody's photos."""
