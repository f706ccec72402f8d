"""Results of commands: tables for people, JSON for programs, both on stdout."""
