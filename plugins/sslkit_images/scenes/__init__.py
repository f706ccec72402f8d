"""Scenes rendered by code: a data set that needs no download and contains no third-party images."""
