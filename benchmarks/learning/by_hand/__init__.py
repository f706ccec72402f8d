"""BYOL written by hand from lightly's modules, beside `sslkit run` at equal settings: do their curves agree?"""
