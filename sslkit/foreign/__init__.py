"""Code that others wrote: how it is installed, and how what it does is kept from the rest."""
