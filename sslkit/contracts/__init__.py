"""Check what components declare and return, where it enters the core; name the plugin and its own line."""
